use std::collections::BTreeMap;

use super::*;

type Disk = BTreeMap<Vec<u8>, Bytes>;

fn key(text: &[u8]) -> Key {
    Key::new(7, b"n", text).expect("short")
}

fn record(len: usize, fill: u8) -> Bytes {
    (0..len)
        .map(|at| {
            if at == 0 {
                1
            } else {
                fill.wrapping_add((at / 7) as u8)
            }
        })
        .collect::<Vec<u8>>()
        .into()
}

fn read(disk: &Disk, key: &Key) -> Result<Option<Bytes>, RowError> {
    let Some(head) = disk.get(&head_key(key)) else {
        return Ok(None);
    };
    join(head.clone(), |name, chunk| {
        Ok(disk.get(&chunk_key(key, name, chunk)).cloned())
    })
    .map(Some)
}

#[test]
fn records_of_all_sizes_come_back() {
    for len in [1, 4095, 4096, 4097, 8192, 8193, 100_000] {
        let encoded = record(len, 3);
        let rows = split(&key(b"k"), encoded.clone());
        assert_eq!(
            rows.chunks.len(),
            if len <= ROW_BYTES_MAX {
                0
            } else {
                len.div_ceil(ROW_BYTES_MAX)
            }
        );
        assert!(
            rows.chunks
                .iter()
                .all(|(_, value)| value.len() <= ROW_BYTES_MAX)
        );
        let mut disk: Disk = rows.chunks.into_iter().collect();
        disk.insert(rows.head_key, rows.head);
        assert_eq!(read(&disk, &key(b"k")), Ok(Some(encoded)));
    }
}

#[test]
fn every_prefix_of_a_replacement_holds_a_whole_record() {
    let sizes = [100, 10_000, 9_000, 20_000, 50];
    let key = key(b"k");
    let mut disk = Disk::new();
    let mut old: Option<Bytes> = None;
    for (fill, len) in sizes.into_iter().enumerate() {
        let new = record(len, fill as u8 * 50);
        let rows = split(&key, new.clone());
        let old_split = disk
            .get(&rows.head_key)
            .map(|row| HeadRow::parse(row.clone()).expect("whole"));
        for (name, value) in rows.chunks {
            disk.insert(name, value);
            assert_eq!(read(&disk, &key), Ok(old.clone()));
        }
        disk.insert(rows.head_key, rows.head);
        assert_eq!(read(&disk, &key), Ok(Some(new.clone())));
        if let Some(HeadRow::Split(split)) = old_split {
            for name in split.chunk_keys(Shelf::Records, &key) {
                assert!(disk.remove(&name).is_some());
                assert_eq!(read(&disk, &key), Ok(Some(new.clone())));
            }
        }
        old = Some(new);
    }
    assert_eq!(disk.len(), 1, "no chunk is left behind");
}

#[test]
fn row_keys_parse_back_and_sort_by_token_and_framed_key() {
    // Keys that end like suffixes, or like each other's rows.
    let endings: [&[u8]; 8] = [
        b"a", b"a\0", b"a\x01", b"a\0\0", b"ab", b"\0", b"\x01", &[1; 30],
    ];
    let mut keys: Vec<Key> = endings.iter().map(|text| key(text)).collect();
    keys.push(Key::new(6, b"zz", b"z").expect("short"));
    keys.push(Key::new(8, b"", b"a").expect("short"));
    let mut rows: Vec<Vec<u8>> = keys.iter().map(head_key).collect();
    for key in &keys {
        assert_eq!(
            parse_key(&head_key(key)),
            Some((key.clone(), RowKind::Head))
        );
        let chunk = RowKind::Chunk {
            name: 0x0100,
            chunk: 1,
        };
        assert_eq!(
            parse_key(&chunk_key(key, 0x0100, 1)),
            Some((key.clone(), chunk))
        );
    }
    keys.sort();
    rows.sort();
    assert_eq!(rows, keys.iter().map(head_key).collect::<Vec<_>>());
    for other in [
        &b""[..],
        b"short",
        b"applied",
        &[0; 9],
        b"\0\0\0\0\0\0\0\x07\0\x01nk\x02",
    ] {
        assert_eq!(parse_key(other), None);
    }
}

#[test]
fn hints_lie_after_every_record_and_pass_for_none() {
    let last = Key::new(u64::MAX, &[0xff; 399], &[0xff]).expect("short");
    let first = Key::new(0, b"", b"\0").expect("short");
    for record in [&last, &first] {
        for row in [head_key(record), chunk_key(record, u64::MAX, u32::MAX)] {
            assert!(*row < *RECORDS_END, "{row:?}");
            let (shelf, key, kind) = parse_any(&row).expect("a row of a record");
            assert_eq!((shelf, &key), (Shelf::Records, record));
            assert_eq!(parse_key(&row), Some((key, kind)));
        }
        let head = Shelf::Hints.head_key(record);
        let chunk = Shelf::Hints.chunk_key(record, 5, 6);
        assert_eq!(
            parse_any(&head),
            Some((Shelf::Hints, record.clone(), RowKind::Head))
        );
        let kind = RowKind::Chunk { name: 5, chunk: 6 };
        assert_eq!(
            parse_any(&chunk),
            Some((Shelf::Hints, record.clone(), kind))
        );
        for row in [head, chunk] {
            assert!(*row >= *RECORDS_END, "{row:?}");
            assert_eq!(parse_key(&row), None);
        }
    }
    assert_eq!(parse_any(RECORDS_END), None);
    assert_eq!(parse_any(&[0]), None);
}

#[test]
fn damage_to_the_rows_of_a_large_record_is_refused() {
    let key = key(b"k");
    let rows = split(&key, record(10_000, 9));
    let mut whole: Disk = rows.chunks.iter().cloned().collect();
    whole.insert(rows.head_key.clone(), rows.head.clone());

    for at in 1..rows.head.len() {
        let mut disk = whole.clone();
        let mut head = rows.head.to_vec();
        head[at] ^= 1;
        disk.insert(rows.head_key.clone(), head.into());
        assert_eq!(read(&disk, &key), Err(RowError::Head), "byte {at}");
    }
    for (number, (name, value)) in rows.chunks.iter().enumerate() {
        let mut disk = whole.clone();
        disk.remove(name);
        assert_eq!(read(&disk, &key), Err(RowError::Chunk(number as u32)));
        disk.insert(name.clone(), value.slice(1..));
        assert_eq!(read(&disk, &key), Err(RowError::Chunk(number as u32)));
        let mut changed = value.to_vec();
        changed[5] ^= 1;
        disk.insert(name.clone(), changed.into());
        assert_eq!(read(&disk, &key), Err(RowError::Checksum));
    }
    let empty: Result<Bytes, RowError> = join(Bytes::new(), |_, _| Ok(None));
    assert_eq!(empty, Err(RowError::Head));
}
