//! The order of each preference list: who is asked first.
//!
//! *Invariant:* ordering changes no owner, and each member has at most `ceil(owned / N′)` first places.

/// Puts one owner of each partition in front, so that first places are spread like ownership itself.
///
/// `owners` holds the owners of each partition, nearest first, all lists of one length. The nearest owner with a first
/// place to spare is taken; where none has, first places are passed on along a shortest chain of partitions.
pub(super) fn balance_first_places(owners: &mut [Vec<u16>], members: usize) {
    let replicas = owners.first().map_or(0, Vec::len);
    if replicas < 2 {
        return;
    }
    let mut owned = vec![0_usize; members];
    for &owner in owners.iter().flatten() {
        owned[usize::from(owner)] += 1;
    }
    let mut spare: Vec<usize> = owned.iter().map(|owned| owned.div_ceil(replicas)).collect();
    let mut led: Vec<Vec<usize>> = vec![Vec::new(); members];
    for partition in 0..owners.len() {
        let chain = chain(&owners[partition], owners, &spare, &led);
        let (&last, _) = chain
            .last()
            .map(|link| (&link.0, link.1))
            .expect("a chain has an end");
        spare[usize::from(last)] -= 1;
        // Each member on the chain takes the partition behind it and gives the one before it to the next.
        let mut taken = partition;
        for (leader, given) in chain {
            promote(&mut owners[taken], leader);
            led[usize::from(leader)].push(taken);
            if let Some(given) = given {
                led[usize::from(leader)].retain(|&other| other != given);
                taken = given;
            }
        }
    }
}

/// The members that pass on a first place: each with the partition that it gives to the next, the last with none.
fn chain(
    candidates: &[u16],
    owners: &[Vec<u16>],
    spare: &[usize],
    led: &[Vec<usize>],
) -> Vec<(u16, Option<usize>)> {
    let mut before: Vec<Option<(Option<u16>, usize)>> = vec![None; spare.len()];
    let mut queue: Vec<u16> = Vec::new();
    for &candidate in candidates {
        before[usize::from(candidate)] = Some((None, 0));
        queue.push(candidate);
    }
    let mut next = 0;
    loop {
        let member = *queue
            .get(next)
            .expect("first places suffice for all partitions, so a chain exists");
        next += 1;
        if spare[usize::from(member)] > 0 {
            return links(member, &before);
        }
        for &partition in &led[usize::from(member)] {
            for &other in &owners[partition] {
                if before[usize::from(other)].is_none() {
                    before[usize::from(other)] = Some((Some(member), partition));
                    queue.push(other);
                }
            }
        }
    }
}

fn links(last: u16, before: &[Option<(Option<u16>, usize)>]) -> Vec<(u16, Option<usize>)> {
    let mut links = vec![(last, None)];
    let mut member = last;
    while let Some((Some(giver), given)) = before[usize::from(member)] {
        links.push((giver, Some(given)));
        member = giver;
    }
    links.reverse();
    links
}

/// Moves the owner to the front and keeps the order of the others.
fn promote(owners: &mut [u16], leader: u16) {
    let at = owners
        .iter()
        .position(|&owner| owner == leader)
        .expect("only an owner leads");
    owners[..=at].rotate_right(1);
}
