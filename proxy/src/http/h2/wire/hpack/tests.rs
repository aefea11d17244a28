//! What one end writes, the other reads; and both read as the `h2` crate's ends do.

use proptest::prelude::*;

use super::*;
use crate::http::h2::wire::fields::{Field, FieldList};

fn list(fields: &[(&str, &str)]) -> FieldList {
    let mut list = FieldList::default();
    for (name, value) in fields {
        list.push(name.as_bytes(), value.as_bytes());
    }
    list
}

fn seen(list: &FieldList) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    list.iter().map(|field| (text(field.name), text(field.value))).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_requests_of_the_standard_are_read_in_a_row() {
    // RFC 7541 C.4: with Huffman coding, the table carried on from one to the next.
    let mut decoder = Decoder::new(65536);
    let blocks = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let expected: [&[(&str, &str)]; 3] = [
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ],
    ];
    for (block, expected) in blocks.iter().zip(expected) {
        let decoded = decoder.decode(&hex(block)).unwrap();
        assert_eq!(seen(&decoded.fields), seen(&list(expected)));
        assert!(!decoded.unfit && !decoded.oversize);
    }
}

#[test]
fn responses_of_the_standard_evict_as_it_says() {
    // RFC 7541 C.6, with a table of 256 bytes.
    let mut decoder = Decoder::new(65536);
    let resized = [hex("3fe101"), hex("4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3")].concat();
    assert_eq!(
        decoder.decode(&resized).unwrap().fields.get("location"),
        Some(&b"https://www.example.com"[..])
    );
    let second = decoder.decode(&hex("4883 640e ffc1 c0bf")).unwrap();
    assert_eq!(second.fields.get(":status"), Some(&b"307"[..]));
    assert_eq!(second.fields.get("cache-control"), Some(&b"private"[..]));
    let third = decoder
        .decode(&hex("88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07"))
        .unwrap();
    assert_eq!(third.fields.get("set-cookie").map(<[u8]>::len), Some(56));
    assert_eq!(third.fields.get("date"), Some(&b"Mon, 21 Oct 2013 20:13:22 GMT"[..]));
}

#[test]
fn blocks_that_are_none_are_refused() {
    for bad in [
        "80",                   // index 0
        "be",                   // beyond both tables
        "00 03 61",             // cut short
        "00 01 61",             // without a value
        "82 20",                // a size behind a field
        "3f e2 1f",             // a size above the limit
        "7f ff ff ff ff 0f",    // an integer without an end
        "00 83 ff ff ff 01 61", // not the Huffman code
    ] {
        assert_eq!(
            Decoder::new(65536).decode(&hex(bad)).unwrap_err(),
            super::decode::BadBlock,
            "{bad}"
        );
    }
    assert!(Decoder::new(65536).decode(&[]).unwrap().fields.iter().next().is_none());
}

#[test]
fn a_list_beyond_the_limit_is_cut_but_its_table_stays_in_step() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(100));
    let large = "v".repeat(80);
    let mut block = Vec::new();
    encoder.encode(
        list(&[("a", "1"), ("b", &large), ("c", "3"), ("d", "4")]).iter(),
        &mut block,
    );
    let decoded = decoder.decode(&block).unwrap();
    assert!(decoded.oversize);
    assert_eq!(seen(&decoded.fields), seen(&list(&[("a", "1")])));
    block.clear();
    encoder.encode(list(&[("d", "4"), ("c", "3")]).iter(), &mut block);
    assert_eq!(block.len(), 2, "both are in the table");
    assert_eq!(
        seen(&decoder.decode(&block).unwrap().fields),
        seen(&list(&[("d", "4"), ("c", "3")]))
    );
}

#[test]
fn what_must_not_be_kept_is_written_anew_each_time_and_stays_marked() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(65536));
    let mut fields = list(&[("authorization", "Bearer x"), ("cookie", "a=b")]);
    fields.push_field(Field {
        name: b"x-secret",
        value: b"s",
        sensitive: true,
    });
    let mut lengths = Vec::new();
    for _ in 0..2 {
        let mut block = Vec::new();
        encoder.encode(fields.iter(), &mut block);
        lengths.push(block.len());
        let decoded = decoder.decode(&block).unwrap();
        let sensitive: Vec<_> = decoded.fields.iter().map(|field| field.sensitive).collect();
        assert_eq!(sensitive, [false, false, true]);
    }
    assert_eq!(lengths[0], lengths[1]);
}

#[test]
fn characters_that_cannot_stand_in_a_field_are_noticed_however_it_comes() {
    for (name, value) in [
        ("Upper", "v"),
        ("sp ace", "v"),
        ("", "v"),
        ("n", "a\nb"),
        ("n", "\0"),
        ("n", "\u{7f}"),
    ] {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(65536));
        for _ in 0..2 {
            let mut block = Vec::new();
            encoder.encode(list(&[(name, value)]).iter(), &mut block);
            assert!(decoder.decode(&block).unwrap().unfit, "{name:?} {value:?}");
        }
    }
}

#[test]
fn another_size_of_the_table_is_announced() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(65536));
    let fields = list(&[("one", "1"), ("two", "2")]);
    for sizes in [&[][..], &[0], &[64], &[0, 4096], &[100_000]] {
        sizes.iter().for_each(|size| encoder.allow(*size));
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.encode(fields.iter(), &mut block);
            assert_eq!(
                seen(&decoder.decode(&block).unwrap().fields),
                seen(&fields),
                "{sizes:?}"
            );
        }
    }
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        "[a-z]{1,12}",
        Just(":path".to_owned()),
        Just(":method".to_owned()),
        Just(":status".to_owned()),
        Just("content-type".to_owned()),
        Just("cookie".to_owned()),
    ];
    let value = prop_oneof![
        "[ -~]{0,40}",
        Just("GET".to_owned()),
        Just("200".to_owned()),
        Just(String::new())
    ];
    proptest::collection::vec((name, value), 0..20)
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back(blocks in proptest::collection::vec(fields(), 1..40), sizes in proptest::collection::vec(proptest::option::of(0_usize..5000), 40)) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(65536));
        for (fields, size) in blocks.iter().zip(sizes) {
            if let Some(size) = size {
                encoder.allow(size);
            }
            let pairs: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let mut block = Vec::new();
            encoder.encode(list(&pairs).iter(), &mut block);
            prop_assert_eq!(&seen(&decoder.decode(&block).unwrap().fields), fields);
        }
    }

    #[test]
    fn nothing_makes_the_decoder_panic_or_grow(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..10)) {
        let mut decoder = Decoder::new(1000);
        for block in blocks {
            if let Ok(decoded) = decoder.decode(&block) {
                prop_assert!(decoded.fields.iter().map(|field| field.size()).sum::<usize>() <= 1000);
            }
        }
    }
}
