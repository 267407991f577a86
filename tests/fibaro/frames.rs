//! Frames made by chance: real ones with bytes changed, and any bytes.

use proptest::prelude::*;

use super::fibaro_wire::check;

/// Every line and file that has been a frame in some test.
fn frames() -> Vec<Vec<u8>> {
    let read = |folder: &str| {
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
        files.into_iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let transcripts = read("fixtures/fibaro");
    let lines = transcripts.iter().flat_map(|file| file.split(|b| *b == b'\n'));
    lines.map(<[u8]>::to_vec).chain(read("tests/fuzz/corpus/fibaro_wire")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        check(&bytes);
    }

    #[test]
    fn changed_frames_are_survived(
        mut frame in proptest::sample::select(frames()),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8, any::<u8>()), 0..6),
    ) {
        for (at, what, byte) in changes {
            if frame.is_empty() {
                break;
            }
            let at = at.index(frame.len());
            match what {
                0 => frame[at] = byte,
                1 => drop(frame.remove(at)),
                2 => frame.truncate(at),
                _ => frame.insert(at, b"\"{}[],:\\0e-"[usize::from(byte) % 11]),
            }
        }
        check(&frame);
    }
}
