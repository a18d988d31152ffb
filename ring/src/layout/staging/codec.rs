//! How a list of changes is written down: sent, staged and hashed.

use super::{CHANGES_MAX, Change};
use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::NodeName,
};

/// The newest format.
const FORMAT: u8 = 1;

/// A list of changes as it is sent, staged and hashed.
pub fn encode_changes(changes: &[Change]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u8(FORMAT);
    writer.count(changes.len());
    changes.iter().for_each(|change| write(&mut writer, change));
    writer.finish()
}

fn write(writer: &mut Writer, change: &Change) {
    match change {
        Change::Add(member) => {
            writer.u8(1);
            writer.member(member);
        }
        Change::Remove(name) => {
            writer.u8(2);
            writer.text(name.as_str());
        }
        Change::Replace { old, new } => {
            writer.u8(3);
            writer.text(old.as_str());
            writer.member(new);
        }
        Change::Set { name, tokens, zone } => {
            writer.u8(4);
            writer.text(name.as_str());
            writer.u32(tokens.unwrap_or(0));
            writer.u8(u8::from(zone.is_some()));
            writer.text(zone.as_deref().unwrap_or(""));
        }
        Change::Addresses {
            name,
            client_addr,
            peer_addr,
            http_addr,
        } => {
            writer.u8(5);
            writer.text(name.as_str());
            [client_addr, peer_addr, http_addr]
                .into_iter()
                .for_each(|addr| writer.text(addr));
        }
        Change::NewStore { name, store_id } => {
            writer.u8(6);
            writer.text(name.as_str());
            writer.u64(store_id.0);
        }
        Change::Excuse(name) => {
            writer.u8(7);
            writer.text(name.as_str());
        }
        Change::AcceptLoss(name) => {
            writer.u8(8);
            writer.text(name.as_str());
        }
    }
}

/// A list of changes that [`encode_changes`] wrote. Whether they fit is judged by [`super::apply`].
///
/// # Errors
/// [`DecodeError`]: the bytes are no list of this version.
pub fn decode_changes(bytes: &[u8]) -> Result<Vec<Change>, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.version(FORMAT)?;
    let count = reader.count("changes", CHANGES_MAX)?;
    let changes = (0..count)
        .map(|_| read(&mut reader))
        .collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(changes)
}

fn read(reader: &mut Reader<'_>) -> Result<Change, DecodeError> {
    let mark = reader.u8()?;
    if mark == 1 {
        return Ok(Change::Add(reader.member()?));
    }
    let name = NodeName::new(reader.text()?)?;
    Ok(match mark {
        2 => Change::Remove(name),
        3 => Change::Replace {
            old: name,
            new: reader.member()?,
        },
        4 => {
            let tokens = Some(reader.u32()?).filter(|tokens| *tokens != 0);
            let (marked, zone) = (reader.u8()? != 0, reader.text()?);
            let zone = marked.then_some(zone);
            Change::Set { name, tokens, zone }
        }
        5 => Change::Addresses {
            name,
            client_addr: reader.text()?,
            peer_addr: reader.text()?,
            http_addr: reader.text()?,
        },
        6 => Change::NewStore {
            name,
            store_id: reader.store()?,
        },
        7 => Change::Excuse(name),
        8 => Change::AcceptLoss(name),
        mark => return Err(DecodeError::Mark(mark, "a change")),
    })
}
