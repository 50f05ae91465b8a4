//! The committed corpus, without a fuzzer: each input that was ever worth keeping, on each run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/fuzz/corpus")
}

#[test]
fn s08_s09_the_committed_corpus_breaks_no_promise() {
    for target in TARGETS {
        let folder = fs::read_dir(corpus().join(target.name)).expect(target.name);
        let mut inputs = 0;
        for file in folder {
            let path = file.expect("it can be listed").path();
            let input = fs::read(&path).expect("it can be read");
            (target.run)(&input);
            // Truncated anywhere it holds as well.
            for cut in 0..input.len().min(200) {
                (target.run)(&input[..cut]);
            }
            inputs += 1;
        }
        assert!(inputs > 0, "no input for {}", target.name);
    }
}

#[test]
fn every_seed_is_in_the_corpus_as_it_is_made() {
    for seed in seeds() {
        let path = corpus().join(seed.target).join(&seed.name);
        let kept = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(kept, seed.octets, "{}: run conformance/fuzz/run --seeds", path.display());
    }
}

#[test]
fn seeds_have_names_of_their_own_and_reach_their_targets() {
    let seeds = seeds();
    let names: BTreeSet<_> = seeds.iter().map(|seed| (seed.target, seed.name.clone())).collect();
    assert_eq!(names.len(), seeds.len());
    for target in TARGETS {
        assert!(seeds.iter().any(|seed| seed.target == target.name), "{}", target.name);
    }
}
