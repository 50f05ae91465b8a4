//! One target under libFuzzer: `fuzz [FLAGS] FOLDER... -ignore_remaining_args=1 TARGET`;
//! or writes the inputs that the corpus begins with: `fuzz -ignore_remaining_args=1 --seeds FOLDER`.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::{env, fs, io, process};

use portolan::testing::fuzz::{TARGETS, Target, seeds};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::args().next_back().unwrap_or_default();
    let target = TARGETS.into_iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("the last argument, {name:?}, is no target"))
});

fn write_seeds(folder: &Path) -> io::Result<()> {
    for seed in seeds() {
        let target = folder.join(seed.target);
        fs::create_dir_all(&target)?;
        fs::write(target.join(seed.name), seed.octets)?;
    }
    Ok(())
}

fn begin() {
    let mut arguments = env::args().skip_while(|argument| argument != "--seeds").skip(1);
    if let Some(folder) = arguments.next() {
        write_seeds(Path::new(&folder)).expect("the corpus can be written");
        process::exit(0);
    }
}

libfuzzer_sys::fuzz_target!(init: begin(), |input: &[u8]| (TARGET.run)(input));
