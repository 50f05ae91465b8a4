use std::time::Duration;

use super::super::withdraw::Withdrawals;
use super::fixtures::{existing, imported, key, proxied};
use crate::clock;
use crate::kubernetes::Mirror;
use crate::objects::Object;

fn addresses(object: &Object) -> Vec<String> {
    let Object::Slice(slice) = object else { return Vec::new() };
    slice.endpoints.iter().map(|endpoint| endpoint.addresses[0].to_string()).collect()
}

#[test]
fn a_silent_address_leaves_the_slices_of_kube_proxy_but_never_as_the_last() {
    let now = clock::now();
    let (web, api, alone) = (key("shop/web"), key("shop/api"), key("shop/alone"));
    let mirror = Mirror::default();
    let slices = [
        proxied(&web, &["10.1.0.1", "10.1.0.2"]),
        imported(&web, &["10.1.0.1", "10.1.0.2"]),
        proxied(&api, &["10.1.0.2", "10.1.0.3"]),
        proxied(&alone, &["10.1.0.1"]),
    ];
    for slice in &slices {
        mirror.put(slice.id(), existing(slice));
    }
    let mut withdrawals = Withdrawals::default();
    let silent = ["10.1.0.1".parse().unwrap()];
    assert_eq!(withdrawals.begin(&mirror, &silent, now), [slices[0].id()]);
    let wanted = withdrawals.wanted(&slices[0].id(), &existing(&slices[0])).unwrap();
    assert_eq!(addresses(&wanted), ["10.1.0.2"]);

    // Once it is out, and once it is the last, there is nothing to do.
    assert!(withdrawals.wanted(&slices[0].id(), &existing(&wanted)).is_none());
    let last = proxied(&web, &["10.1.0.1"]);
    assert!(withdrawals.wanted(&last.id(), &existing(&last)).is_none());

    withdrawals.tidy(now + Duration::from_secs(9));
    assert!(withdrawals.concerns(&slices[0].id()));
    withdrawals.tidy(now + Duration::from_secs(10));
    assert!(!withdrawals.concerns(&slices[0].id()));
}
