use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("state")).unwrap();
    (dir, store)
}

#[test]
fn what_was_saved_is_loaded_and_replaced_as_a_whole() {
    let (_dir, store) = store();
    assert!(store.load("peers", 1).unwrap().is_none());
    store.save("peers", 1, b"a long first payload").unwrap();
    store.save("peers", 1, b"second").unwrap();
    store.save("vips", 7, b"").unwrap();
    assert_eq!(store.load("peers", 1).unwrap().unwrap(), b"second");
    assert_eq!(store.load("vips", 7).unwrap().unwrap(), b"");
}

#[test]
fn another_version_is_named_and_not_returned() {
    let (_dir, store) = store();
    store.save("peers", 2, b"x").unwrap();
    let error = store.load("peers", 1).unwrap_err();
    assert!(matches!(error, Error::Version { found: 2, wanted: 1, .. }), "{error}");
}

#[test]
fn only_the_owner_can_read() {
    let (_dir, store) = store();
    store.save("peers", 1, b"x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.dir), 0o700);
    assert_eq!(mode(&store.dir.join("peers")), 0o600);
}

#[test]
fn names_cannot_leave_the_directory() {
    let (_dir, store) = store();
    for name in ["", ".", "..", "../x", "a/b", ".x", "A", "a\0", &"a".repeat(201)] {
        assert!(matches!(store.save(name, 1, b""), Err(Error::Name(_))), "{name:?}");
    }
}

#[test]
fn a_failed_save_leaves_what_was_there() {
    let (_dir, store) = store();
    store.save("peers", 1, b"good").unwrap();
    // The temporary name is taken by a directory: the write must fail.
    fs::create_dir(store.dir.join(".peers.tmp")).unwrap();
    assert!(matches!(store.save("peers", 1, b"new"), Err(Error::Io { .. })));
    assert_eq!(store.load("peers", 1).unwrap().unwrap(), b"good");
}

#[test]
fn a_leftover_of_a_crash_is_overwritten() {
    let (_dir, store) = store();
    fs::write(store.dir.join(".peers.tmp"), vec![7; 10_000]).unwrap();
    store.save("peers", 1, b"new").unwrap();
    assert_eq!(store.load("peers", 1).unwrap().unwrap(), b"new");
}

#[test]
fn p11_truncation_and_a_flipped_bit_at_every_byte_are_corrupt() {
    let (_dir, store) = store();
    store.save("peers", 1, b"what is known of the peers").unwrap();
    let path = store.dir.join("peers");
    let good = fs::read(&path).unwrap();
    let is_corrupt = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        matches!(store.load("peers", 1), Err(Error::Corrupt { .. }))
    };
    for at in 0..good.len() {
        assert!(is_corrupt(&good[..at]), "cut at {at}");
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(is_corrupt(&bad), "byte {at}");
        for bit in 0..8 {
            bad[at] = good[at] ^ 1 << bit;
            assert!(check(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
    assert!(is_corrupt(&[good.as_slice(), b"\0"].concat()), "one byte more");
}

proptest! {
    #[test]
    fn p11_any_damage_is_corrupt(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        put in prop::collection::vec(any::<u8>(), 0..20),
        cut in 0_usize..20,
    ) {
        let good = [header(3, &payload).as_slice(), payload.as_slice()].concat();
        let at = at.index(good.len());
        let end = (at + cut).min(good.len());
        let bad = [&good[..at], put.as_slice(), &good[end..]].concat();
        prop_assert_eq!(check(&good), Ok(3));
        prop_assert_eq!(check(&bad).is_ok(), bad == good);
    }
}
