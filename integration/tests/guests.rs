//! The hostile guests themselves: hostile on purpose, never malformed by accident.

use tamis_integration::wat::Act::*;
use tamis_integration::wat::Guest;

#[test]
fn every_guest_is_a_valid_component() {
    let acts = vec![
        SetRequestHeader("x-a", b"1\r\n\0\xff".to_vec()),
        AppendRequestHeader("x-a", b"2".to_vec()),
        RemoveRequestHeader("x-a"),
        SetMethod("PUT"),
        SetAuthority("b.example"),
        SetPath("/b".into()),
        SetQuery("c=d"),
        SetResponseHeader("x-b", b"3".to_vec()),
        SetStatus(201),
        SetAttribute("k", "v".into()),
        TellUpstream,
        TellClient,
        Log("hello"),
        Count(3),
        Clock,
        Recurse,
        Compute(3),
        Loop,
        Trap,
        Reply(403, vec![("x-c", "4")], "no"),
    ];
    for act in &acts {
        let only = || vec![act.clone()];
        for (hook, guest) in [
            ("request", Guest::new().on_request(only())),
            ("response", Guest::new().on_response(only())),
            ("both", Guest::new().on_request(only()).on_response(only())),
        ] {
            validate(&format!("{act:?} in {hook}"), &guest.build());
        }
    }
    for (hook, guest) in [
        (
            "held-body",
            Guest::new()
                .on_request([ReadBody(5)])
                .on_held_body([Reply(403, vec![], "no")]),
        ),
        ("request-body", Guest::new().on_request_body([From(1), Trap])),
        (
            "response-body",
            Guest::new().on_response_body([From(2), Reply(403, vec![("x-c", "4")], "no")]),
        ),
        ("completion", Guest::new().on_completion([TellRecord])),
        (
            "connection",
            Guest::new().on_connection([SetAttribute("k", "v".into()), RefuseConnection]),
        ),
    ] {
        validate(hook, &guest.build());
    }
    validate("all at once", &Guest::new().on_request(acts).build());
    validate(
        "refuse",
        &Guest::new()
            .on_configure([Refuse("not like this")])
            .on_request([])
            .build(),
    );
    validate(
        "foreign",
        &Guest::new()
            .on_request([])
            .importing("tamis:filter/teleport@0.1.0", "go")
            .build(),
    );
    validate("nothing", &Guest::new().build());
}

fn validate(name: &str, component: &[u8]) {
    let mut validator = wasmparser::Validator::new();
    validator
        .validate_all(component)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}
