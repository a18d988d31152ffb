//! How layouts, decrees and votes are written down: one stable encoding for what is kept, sent and hashed.
//!
//! *Invariant I7:* whatever the bytes say, decoding ends with a value that its constructor has checked, or a typed error;
//! a count is judged before anything is taken up by it. Integers are little-endian, texts have their length in front,
//! and every stored thing starts with a version.

use crate::{
    id::{Epoch, NodeName, NodeNameError, PlacementId, StoreId},
    layout::{ADDRESS_LEN_MAX, DecreeError, Layout, LayoutError, MEMBERS_MAX, Member},
};

/// Why bytes are not what they should be. Nothing was taken over from them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end in the middle.
    #[error("the bytes end in the middle")]
    Short,
    /// Something follows.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// They were written by a newer program.
    #[error(
        "the format is {found}, and this program reads up to {newest}: it is older than the data"
    )]
    Version {
        /// The version found.
        found: u8,
        /// The newest that is read.
        newest: u8,
    },
    /// A count or a length is over its limit.
    #[error("{found} {what} are over the limit of {max}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A mark has no meaning.
    #[error("{0} stands where {1} is expected")]
    Mark(u8, &'static str),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// A layout breaks a rule.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A decree breaks a rule.
    #[error(transparent)]
    Decree(#[from] DecreeError),
}

/// Puts values one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("every count has a limit below 2^32"));
    }

    /// A text, which callers have checked to be short.
    pub(crate) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Bytes, which callers know to be under 4 GiB.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn member(&mut self, member: &Member) {
        self.text(member.name.as_str());
        self.u64(member.placement_id.0);
        self.u64(member.store_id.0);
        self.u32(member.tokens);
        self.text(&member.zone);
        self.text(&member.client_addr);
        self.text(&member.peer_addr);
        self.text(&member.http_addr);
    }

    pub(crate) fn layout(&mut self, layout: &Layout) {
        self.u64(layout.epoch().0);
        self.u32(layout.partitions());
        self.u32(layout.replicas());
        self.count(layout.members().len());
        layout
            .members()
            .iter()
            .for_each(|member| self.member(member));
    }
}

/// Takes values off the front.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// All must have been read.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, DecodeError> {
        Ok(Epoch(self.u64()?))
    }

    pub(crate) fn store(&mut self) -> Result<StoreId, DecodeError> {
        Ok(StoreId(self.u64()?))
    }

    /// The version in front of a stored thing.
    pub(crate) fn version(&mut self, newest: u8) -> Result<u8, DecodeError> {
        match self.u8()? {
            found if (1..=newest).contains(&found) => Ok(found),
            found => Err(DecodeError::Version { found, newest }),
        }
    }

    pub(crate) fn count(&mut self, what: &'static str, max: usize) -> Result<usize, DecodeError> {
        let found = self.u32()? as usize;
        if found > max {
            return Err(DecodeError::TooMany { what, found, max });
        }
        Ok(found)
    }

    pub(crate) fn bytes(
        &mut self,
        what: &'static str,
        max: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let len = self.count(what, max)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<String, DecodeError> {
        let text = self.bytes("bytes of a text", ADDRESS_LEN_MAX)?;
        String::from_utf8(text.to_vec()).map_err(|_| DecodeError::Text)
    }

    pub(crate) fn member(&mut self) -> Result<Member, DecodeError> {
        Ok(Member {
            name: NodeName::new(self.text()?)?,
            placement_id: PlacementId(self.u64()?),
            store_id: self.store()?,
            tokens: self.u32()?,
            zone: self.text()?,
            client_addr: self.text()?,
            peer_addr: self.text()?,
            http_addr: self.text()?,
        })
    }

    pub(crate) fn layout(&mut self) -> Result<Layout, DecodeError> {
        let (epoch, partitions, replicas) = (self.epoch()?, self.u32()?, self.u32()?);
        let count = self.count("members", MEMBERS_MAX)?;
        let members = (0..count)
            .map(|_| self.member())
            .collect::<Result<_, _>>()?;
        Ok(Layout::new(epoch, partitions, replicas, members)?)
    }
}
