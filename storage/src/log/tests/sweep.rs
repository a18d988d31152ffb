//! The promised sweep: cut at every byte of the last append, and any one byte damaged anywhere.

use super::*;

/// A group as the test wrote it: file, place, records.
#[derive(Debug, Clone)]
struct Written {
    segment: u32,
    start: usize,
    /// End of the header and records, before the padding.
    end: usize,
    first: u64,
    count: u64,
}

/// An image of a log with recycled segments, and what is where in it.
struct Image {
    disk: SimDisk,
    config: LogConfig,
    from: RecoverFrom,
    groups: Vec<Written>,
    records: Records,
    /// Live segments in order.
    live: Vec<u32>,
}

/// Writes groups of one to three records over recycled segments; some are followed by a seal.
fn image(sealed_at_end: bool) -> Image {
    let disk = SimDisk::new(1);
    let config = small(7);
    let (log, mut writer, _) = open(&disk, config);
    // A first life of the files, so that the live ones hold old groups past their ends.
    for record in 0..14u8 {
        append(&log, &mut writer, &[0xee ^ record; 700]);
    }
    let applied = log.last();
    append(&log, &mut writer, b"applied too");
    let position = log.first_live(applied);
    log.release(position);
    let from = RecoverFrom { position, applied };
    let mut image = Image {
        disk: disk.clone(),
        config,
        from,
        groups: Vec::new(),
        records: Vec::new(),
        live: Vec::new(),
    };
    image.records.push((applied + 1, b"applied too".to_vec()));
    for group in 0..12u8 {
        for record in 0..=group % 3 {
            let bytes = vec![group << 4 | record; [10, 90, 500][usize::from(group + record) % 3]];
            let sequence = log.append(|buffer| buffer.extend_from_slice(&bytes));
            image.records.push((sequence, bytes));
        }
        run(&mut writer);
        if group % 4 == 1 {
            seal(&mut writer);
        }
    }
    if sealed_at_end {
        seal(&mut writer);
    }
    image.find_groups();
    image
}

impl Image {
    /// Reads the places of the groups off the image, by the format alone.
    fn find_groups(&mut self) {
        use super::super::format::{GROUP_HEADER_BYTES, GroupHeader, HeaderState, SegmentHeader};
        let mut segments = Vec::new();
        for segment in 1..40 {
            let Some(bytes) = self.disk.content(&segment_name(segment)) else {
                break;
            };
            if let HeaderState::Valid(header) = SegmentHeader::decode(&bytes, self.config.salt)
                && header.generation >= self.from.position.generation
            {
                segments.push((header.generation, segment, bytes));
            }
        }
        segments.sort();
        for (generation, segment, bytes) in segments {
            self.live.push(segment);
            let mut start = BLOCK_BYTES;
            while let Some(group) = bytes
                .get(start..)
                .and_then(|rest| GroupHeader::decode(rest, self.config.salt))
            {
                if group.generation != generation {
                    break;
                }
                let end = start + GROUP_HEADER_BYTES + group.length as usize;
                let (first, count) = (group.first, u64::from(group.count));
                self.groups.push(Written {
                    segment,
                    start,
                    end,
                    first,
                    count,
                });
                start += group.padded();
            }
        }
    }

    /// The records without those of one group.
    fn without(&self, hit: &Written) -> Records {
        let gone = hit.first..hit.first + hit.count;
        self.records
            .iter()
            .filter(|(sequence, _)| !gone.contains(sequence))
            .cloned()
            .collect()
    }

    fn recover(&self) -> (Recovered, Records) {
        try_recover(&self.disk, &self.config, self.from).expect("damage is no error")
    }

    /// Checks what recovery says with one byte, or the whole block, damaged at this place.
    fn check(&self, segment: u32, offset: usize, whole_block: bool) {
        let (recovered, records) = self.recover();
        let place = format!("segment {segment} offset {offset}");
        let hit = self
            .groups
            .iter()
            .find(|group| group.segment == segment && (group.start..group.end).contains(&offset));
        let Some(hit) = hit else {
            // A header, padding, a former life, or a file that is not live: every record is there.
            assert_eq!(records, self.records, "{place}");
            let header = offset < 40 && self.live.contains(&segment);
            let said = recovered
                .damage
                .iter()
                .filter(|damage| damage.position.segment == segment)
                .count();
            assert_eq!(
                (recovered.damage.len(), said),
                if header { (1, 1) } else { (0, 0) },
                "{place}"
            );
            assert!(
                recovered
                    .damage
                    .iter()
                    .all(|damage| damage.missing.is_none()),
                "{place}"
            );
            return;
        };
        assert_eq!(records, self.without(hit), "{place}");
        let last = self.groups.last().expect("there are groups");
        if hit.start == last.start && hit.segment == last.segment {
            // Nothing proves the last group: it passes for a torn tail, and is told as one.
            let torn = recovered
                .torn_tail
                .map(|torn| (torn.position.segment, torn.offset, torn.first));
            let told = Some((segment, hit.start as u64, hit.first));
            let header_gone = whole_block && offset == hit.start;
            assert_eq!(torn, told.filter(|_| !header_gone), "{place}");
            assert_eq!(recovered.damage, [], "{place}");
            assert_eq!(recovered.last_sequence, hit.first - 1, "{place}");
        } else {
            assert_eq!(
                recovered.last_sequence,
                self.records.last().expect("some").0,
                "{place}"
            );
            // What the checkpoint covers is not missed.
            let (first, next) = (hit.first.max(self.from.applied + 1), hit.first + hit.count);
            let missing = (first < next).then(|| (first, next - 1));
            let last_in_segment = !self
                .groups
                .iter()
                .any(|group| group.segment == segment && group.start > hit.start);
            if hit.count == 0 && last_in_segment {
                // A seal at the end of a segment whose successor proves the same.
                assert_eq!(recovered.damage, [], "{place}");
            } else {
                let damage = &recovered.damage;
                assert_eq!(damage.len(), 1, "{place}: {damage:?}");
                assert_eq!(
                    (damage[0].position.segment, damage[0].offset),
                    (segment, hit.start as u64),
                    "{place}"
                );
                assert_eq!(damage[0].missing, missing, "{place}");
            }
        }
    }
}

#[test]
fn the_image_is_what_the_sweeps_need() {
    let image = image(false);
    assert!(
        image.live.len() >= 3,
        "several live segments: {:?}",
        image.live
    );
    assert!(
        image
            .live
            .iter()
            .any(|segment| *segment < image.from.position.segment),
        "recycled ones: {:?}",
        image.live
    );
    assert!(
        image.groups.iter().any(|group| group.count == 0)
            && image.groups.iter().any(|group| group.count == 3)
    );
    let (recovered, records) = image.recover();
    assert_eq!(
        (records, recovered.damage, recovered.torn_tail),
        (image.records.clone(), vec![], None)
    );
}

#[test]
fn any_one_damaged_byte_costs_at_most_its_group_and_is_told() {
    for sealed_at_end in [false, true] {
        let image = image(sealed_at_end);
        let mut segment = 1;
        while let Some(content) = image.disk.content(&segment_name(segment)) {
            for offset in 0..content.len() {
                for mask in [0x01, 0x80, 0xff] {
                    image.disk.flip(&segment_name(segment), offset as u64, mask);
                    image.check(segment, offset, false);
                    image.disk.flip(&segment_name(segment), offset as u64, mask);
                }
            }
            segment += 1;
        }
        assert!(segment > 4);
    }
}

#[test]
fn any_one_lost_block_costs_at_most_its_group() {
    let image = image(false);
    for &segment in &image.live {
        let name = segment_name(segment);
        let content = image.disk.content(&name).expect("it is live");
        for offset in (0..content.len()).step_by(BLOCK_BYTES) {
            for garbage in [0x00, 0xff] {
                let mut bytes = content.clone();
                bytes[offset..offset + BLOCK_BYTES].fill(garbage);
                image.disk.put_durable(&name, &bytes);
                image.check(segment, offset, true);
            }
        }
        image.disk.put_durable(&name, &content);
    }
}

/// The end of the file after the cut: what the last append went over.
#[derive(Debug, Clone, Copy)]
enum After {
    /// What was there before the last append (zeros, or a former life of the file).
    Before,
    Zeros,
    Ones,
    /// The file ends.
    Nothing,
}

#[test]
fn a_log_cut_at_every_byte_of_its_last_append_keeps_all_before() {
    let image = image(false);
    let last = image.groups.last().expect("there are groups").clone();
    let name = segment_name(last.segment);
    let content = image.disk.content(&name).expect("it is live");
    let kept = image.without(&last);
    assert!(last.count > 0);
    for after in [After::Before, After::Zeros, After::Ones, After::Nothing] {
        for cut in last.start..=last.end {
            let mut bytes = content[..cut].to_vec();
            match after {
                // An older group lies there whole, as in a file on its second life.
                After::Before => {
                    let stale = image.stale_group();
                    let at = cut.next_multiple_of(BLOCK_BYTES);
                    bytes.resize(at, 0xaa);
                    bytes.extend_from_slice(&stale);
                    bytes.resize(content.len().max(bytes.len()), 0xaa);
                }
                After::Zeros => bytes.resize(content.len(), 0),
                After::Ones => bytes.resize(content.len(), 0xff),
                After::Nothing => {}
            }
            let disk = image.disk.fork();
            disk.put_durable(&name, &bytes);
            let (recovered, records) =
                try_recover(&disk, &image.config, image.from).expect("a cut is no error");
            let place = format!("cut at {cut}, then {after:?}");
            assert_eq!(recovered.damage, [], "{place}");
            if cut == last.end {
                assert_eq!(
                    (records, recovered.torn_tail),
                    (image.records.clone(), None),
                    "{place}"
                );
                continue;
            }
            assert_eq!(records, kept, "{place}");
            // Told once the generation's 24 bytes are there.
            assert!(
                recovered.torn_tail.is_some() || cut < last.start + 24,
                "{place}"
            );
            // What goes on after the cut is whole, and the cut tail never comes back.
            if cut % 16 == 0 {
                let (log, mut writer) = start(&disk, image.config, recovered);
                run(&mut writer);
                let sequence = append(&log, &mut writer, b"new");
                assert_eq!(sequence, last.first);
                disk.crash(cut as u64);
                let (recovered, mut records) =
                    try_recover(&disk, &image.config, image.from).expect("recoverable");
                assert_eq!(records.pop(), Some((sequence, b"new".to_vec())), "{place}");
                assert_eq!(
                    (records, recovered.damage),
                    (kept.clone(), vec![]),
                    "{place}"
                );
            }
        }
    }
}

impl Image {
    /// A whole, valid group of a former generation, with sequences that would fit: it must not replay.
    fn stale_group(&self) -> Vec<u8> {
        use super::super::format::{GROUP_HEADER_BYTES, GroupHeader, RECORD_PREFIX_BYTES};
        let first = self.groups.last().expect("some").first;
        let mut bytes = vec![0; GROUP_HEADER_BYTES + RECORD_PREFIX_BYTES + 5];
        bytes[GROUP_HEADER_BYTES] = 5;
        let header = GroupHeader {
            generation: self.from.position.generation - 1,
            first,
            count: 1,
            length: 9,
        };
        header.finish(&mut bytes, self.config.salt);
        bytes
    }
}

/// Every block of the last append is on disk or not, in every combination.
#[test]
fn any_blocks_of_the_last_append_may_be_missing() {
    let image = image(false);
    let disk = image.disk.fork();
    let config = image.config;
    let (recovered, _) = try_recover(&disk, &config, image.from).expect("recoverable");
    let (log, mut writer) = start(&disk, config, recovered);
    run(&mut writer);
    let before = append(&log, &mut writer, b"before");
    let name = segment_name(log.first_live(before).segment);
    let old = disk.content(&name).expect("it is live");
    let last = append(&log, &mut writer, &[0x77; 4 * BLOCK_BYTES - 100]);
    let new = disk.content(&name).expect("it is live");
    let start = 2 * BLOCK_BYTES;
    for kept in 0..1u32 << 4 {
        let mut bytes = old.clone();
        for block in (0..4).filter(|block| kept >> block & 1 == 1) {
            let range = start + block * BLOCK_BYTES..start + (block + 1) * BLOCK_BYTES;
            bytes[range.clone()].copy_from_slice(&new[range]);
        }
        disk.put_durable(&name, &bytes);
        let (recovered, records) = try_recover(&disk, &config, image.from).expect("recoverable");
        let expected = if kept == 0b1111 { last } else { before };
        assert_eq!(
            records.last().map(|(sequence, _)| *sequence),
            Some(expected),
            "{kept:04b}"
        );
        assert_eq!(recovered.damage, [], "{kept:04b}");
        assert_eq!(
            recovered.torn_tail.is_some(),
            kept & 1 == 1 && kept != 0b1111,
            "{kept:04b}"
        );
    }
}
