//! The fuzz targets on their corpus, and on what cutting and flipping makes of it.

#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

/// Cuts and flips of each seed.
const VARIANTS: usize = 200;

#[test]
fn every_target_keeps_its_promises_on_the_corpus_and_near_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in targets::ALL {
        let seeds: Vec<Vec<u8>> = std::fs::read_dir(corpus.join(name))
            .expect("a corpus")
            .map(|file| std::fs::read(file.expect("a file").path()).expect("a seed"))
            .collect();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        // A fixed sequence, so that what fails once fails again.
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below.max(1) as u64).expect("small")
        };
        for seed in &seeds {
            target(seed);
            for _ in 0..VARIANTS {
                let mut data = seed.clone();
                for _ in 0..=next(3) {
                    let at = next(data.len());
                    match next(4) {
                        0 => data.truncate(at),
                        1 if !data.is_empty() => data[at] ^= 1 << next(8),
                        2 if !data.is_empty() => data[at] = b"{}[]\":,\\0e-."[next(12)],
                        _ => {
                            let piece = data[at..(at + next(16)).min(data.len())].to_vec();
                            data.splice(at..at, piece);
                        }
                    }
                }
                target(&data);
            }
        }
    }
}
