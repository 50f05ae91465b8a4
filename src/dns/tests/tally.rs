use super::*;

#[test]
fn a_bound_belongs_to_its_bucket() {
    for (at, bound) in BOUNDS.into_iter().enumerate() {
        assert_eq!((bucket(bound), bucket(bound + 1)), (at, at + 1));
    }
    assert_eq!(bucket(0), 0);
}

#[test]
fn no_two_sets_share_a_cache_line() {
    assert_eq!((align_of::<Counts>(), size_of::<Counts>() % 128), (128, 0));
}
