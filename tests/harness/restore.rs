//! Older images of disks: taken at a clean stop, put back later.
//!
//! A store cannot know by itself that it has forgotten something: the others tell it, at its start, how far they heard its log to be
//! durable. So that is what the fault tests, and it strikes only while they can: all others have been up since the image was taken
//! (what they heard is in memory first, and in checkpoints later), the network is well, and until the node is ready again nothing else
//! happens.

use super::{
    cluster::{Role, SimNode},
    faults::Fault,
    medium::Image,
};

/// How long a node must have worked since the image was taken, in ms.
const WORK_MS_MIN: u64 = 1_000;

/// An image that waits to be put back.
struct Saved {
    fault: Fault,
    image: Image,
    taken_ms: u64,
}

/// The images of a run's nodes.
pub struct Restores {
    /// By node: an image is to be taken when it has stopped.
    wanted: Vec<Option<Fault>>,
    saved: Vec<Option<Saved>>,
    /// When each node was last seen to go, in ms.
    down_ms: Vec<Option<u64>>,
    /// The node that an image was put back on and that is not ready again.
    asking: Option<usize>,
}

impl Restores {
    /// None yet, of so many nodes.
    pub fn new(nodes: usize) -> Self {
        Restores {
            wanted: vec![None; nodes],
            saved: (0..nodes).map(|_| None).collect(),
            down_ms: vec![None; nodes],
            asking: None,
        }
    }

    /// An image is to be taken of the node of `fault` when it has stopped.
    pub fn wanted(&mut self, fault: Fault) {
        self.wanted[fault.node] = Some(fault);
    }

    /// Stops nodes whose images are wanted, once all are there.
    pub fn take(&mut self, nodes: &[SimNode]) {
        if nodes.iter().all(SimNode::is_as_it_should) {
            let wanted = self.wanted.iter().zip(nodes);
            for (_, node) in wanted.filter(|(wanted, _)| wanted.is_some()) {
                node.stop();
            }
        }
    }

    /// A node has ended by itself.
    pub fn ended(&mut self, index: usize, node: &SimNode, now_ms: u64) {
        // Of a spare there may be nothing yet, and without its identity it is another store.
        let is_clean = matches!(node.ended(), Some(Ok(()))) && node.role() == Role::Member;
        if let Some(fault) = self.wanted[index].take_if(|_| is_clean) {
            self.saved[index] = Some(Saved {
                fault,
                image: node.medium.image(),
                taken_ms: now_ms,
            });
        }
        self.went_down(index, now_ms);
    }

    /// A node has gone.
    pub fn went_down(&mut self, index: usize, now_ms: u64) {
        self.down_ms[index] = Some(now_ms);
    }

    /// The image to put back now, if there is one. `is_calm`: no fault of the network lasts.
    pub fn due(&mut self, nodes: &[SimNode], is_calm: bool, now_ms: u64) -> Option<(Fault, Image)> {
        let ready = is_calm && nodes.iter().all(SimNode::is_as_it_should);
        let index = self.saved.iter().position(|saved| {
            saved
                .as_ref()
                .is_some_and(|saved| now_ms >= saved.taken_ms + saved.fault.for_ms.max(WORK_MS_MIN))
        })?;
        let taken_ms = self.saved[index].as_ref()?.taken_ms;
        let remember = |(other, down_ms): (usize, &Option<u64>)| {
            other == index || down_ms.is_none_or(|down_ms| down_ms < taken_ms)
        };
        if !self.down_ms.iter().enumerate().all(remember) {
            // Nobody is sure to know any more.
            self.saved[index] = None;
            return None;
        }
        if !ready {
            return None;
        }
        self.asking = Some(index);
        self.saved[index]
            .take()
            .map(|saved| (saved.fault, saved.image))
    }

    /// Whether a node that an image was put back on is not ready yet.
    pub fn is_asking(&mut self, nodes: &[SimNode]) -> bool {
        self.asking = self.asking.filter(|&index| !nodes[index].is_as_it_should());
        self.asking.is_some()
    }

    /// No more images are put back.
    pub fn clear(&mut self) {
        self.wanted.fill(None);
        self.saved.fill_with(|| None);
    }
}
