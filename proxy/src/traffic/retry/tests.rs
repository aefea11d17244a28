use proptest::prelude::*;
use squire_mesh::traffic::{Filters, Timeouts};

use super::*;

const TRY: Attempt<'_> = Attempt {
    method: "GET",
    tries: 1,
    failed: Failed::Lost,
    body: Body::Whole,
    responded: false,
    left: None,
};

fn told(codes: &[u16], attempts: u32, backoff: Duration) -> RetryPolicy {
    RetryPolicy::of(&Arc::new(Rule {
        route: "".into(),
        matches: [].into(),
        filters: Filters::default(),
        backends: [].into(),
        timeouts: Timeouts::default(),
        retry: Some(Retry {
            codes: codes.into(),
            attempts,
            backoff,
        }),
        refused: None,
    }))
}

#[test]
fn without_a_route_only_what_is_safe_is_tried_again() {
    let default = RetryPolicy::default();
    for (method, failed, expected) in [
        ("POST", Failed::Unconnected, Ok(Duration::ZERO)),
        ("POST", Failed::Refused, Ok(Duration::ZERO)),
        ("POST", Failed::Lost, Err(Unretried::Unsafe)),
        ("PATCH", Failed::Lost, Err(Unretried::Unsafe)),
        ("CONNECT", Failed::Lost, Err(Unretried::Unsafe)),
        ("get", Failed::Lost, Err(Unretried::Unsafe)),
        ("GET", Failed::Lost, Ok(Retry::BACKOFF)),
        ("PUT", Failed::Lost, Ok(Retry::BACKOFF)),
        ("GET", Failed::TimedOut, Err(Unretried::Unsafe)),
        ("GET", Failed::Status(503), Err(Unretried::Unsafe)),
    ] {
        let attempt = Attempt { method, failed, ..TRY };
        assert_eq!(may_retry(&default, &attempt, 0.0), expected, "{method} {failed:?}");
    }
}

#[test]
fn a_route_may_ask_for_more_but_never_for_what_cannot_be() {
    let policy = told(&[503], 1, Duration::from_millis(10));
    let post = Attempt { method: "POST", ..TRY };
    let asked = |attempt: Attempt<'_>| may_retry(&policy, &attempt, 0.0);
    assert_eq!(asked(post), Ok(Duration::from_millis(10)));
    assert!(
        asked(Attempt {
            failed: Failed::TimedOut,
            ..post
        })
        .is_ok()
    );
    assert!(
        asked(Attempt {
            failed: Failed::Status(503),
            ..post
        })
        .is_ok()
    );
    assert_eq!(
        asked(Attempt {
            failed: Failed::Status(500),
            ..post
        }),
        Err(Unretried::Unsafe)
    );
    assert_eq!(
        asked(Attempt {
            body: Body::Gone,
            ..post
        }),
        Err(Unretried::Body)
    );
    assert_eq!(
        asked(Attempt {
            responded: true,
            ..post
        }),
        Err(Unretried::Responded)
    );
    assert_eq!(asked(Attempt { tries: 2, ..post }), Err(Unretried::Attempts));
    let left = Some(Duration::from_millis(10));
    assert_eq!(asked(Attempt { left, ..post }), Err(Unretried::Deadline));
    let none = told(&[503], 0, Duration::ZERO);
    assert_eq!(
        may_retry(&none, &post, 0.0),
        Err(Unretried::Attempts),
        "0 is no retry at all"
    );
    assert!(policy.wants(503) && !policy.wants(500) && !RetryPolicy::default().wants(503));
}

proptest! {
    #[test]
    fn a_wait_is_never_shorter_than_the_route_says_and_stays_bounded(
        base in 0..10_000_u64, tries in 1..1_000_u32, random in 0.0..1.0_f64,
    ) {
        let base = Duration::from_millis(base);
        let attempt = Attempt { tries, ..TRY };
        let wait = may_retry(&told(&[], u32::MAX, base), &attempt, random).unwrap();
        prop_assert!(wait >= base);
        prop_assert!(wait <= base * LONGEST * 3 / 2);
    }

    #[test]
    fn after_a_byte_of_the_response_or_with_a_body_that_is_gone_nothing_is_tried_again(
        responded: bool, failed in 0..5_u8, tries in 0..4_u32, method in "[A-Z]{3,5}",
    ) {
        let failed = [Failed::Unconnected, Failed::Refused, Failed::Lost, Failed::TimedOut, Failed::Status(503)][usize::from(failed)];
        let body = if responded { Body::Whole } else { Body::Gone };
        let attempt = Attempt { method: &method, tries, failed, body, responded, left: None };
        prop_assert!(may_retry(&told(&[503], 9, Duration::ZERO), &attempt, 0.5).is_err());
    }
}
