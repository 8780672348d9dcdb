//! Files that are refused before any of their code runs.

use super::Verdict::Refused;
use super::{Hostile, made, rows};
use crate::wat::{SECTION, Wat};

/// Each stage by the text that all of its refusals contain.
const NOT_WASM: &str = "not a WebAssembly module";
const NOT_VALID: &str = "not valid at byte";
const SECTION_OF: &str = "custom section";
pub(super) const OVER: &str = "over the limit of";

pub(super) fn all() -> Vec<Hostile> {
    [bytes(), sections(), shapes()].concat()
}

pub(super) fn text(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Returns a good module with more fields.
pub(super) fn with(more: impl Into<String>) -> Vec<u8> {
    let more = made(more.into());
    Wat { more, ..Wat::GOOD }.bytes()
}

pub(super) fn memory(memory: &'static str) -> Vec<u8> {
    Wat {
        memory,
        ..Wat::GOOD
    }
    .bytes()
}

fn section(section: &'static str) -> Vec<u8> {
    Wat {
        section,
        ..Wat::GOOD
    }
    .bytes()
}

/// Returns a good module with a custom section appended.
pub(super) fn and_custom(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = Wat::GOOD.bytes();
    push_custom(&mut bytes, name, content);
    bytes
}

pub(super) fn push_custom(bytes: &mut Vec<u8>, name: &str, content: &[u8]) {
    bytes.push(0);
    leb(bytes, 1 + name.len() + content.len());
    leb(bytes, name.len());
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(content);
}

/// Appends a number in LEB128, seven bits per byte.
fn leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

fn bytes() -> Vec<Hostile> {
    let good = Wat::GOOD.bytes();
    let cut = good[..good.len() - 3].to_vec();
    // A function that declares 2^32 - 1 variables in eight bytes.
    let variables = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\
        \x0a\x0a\x01\x08\x01\xff\xff\xff\xff\x0f\x7f\x0b";
    rows! {
        "nothing at all": Vec::new() => NOT_WASM, "cdylib";
        "a script": b"#!/bin/sh\nrm -rf /\n".to_vec() => NOT_WASM, "";
        "a program": b"\x7fELF\x02\x01\x01\0".to_vec() => NOT_WASM, "";
        "an archive": b"\x1f\x8b\x08\0\0\0\0\0".to_vec() => NOT_WASM, "";
        "text": b"(module)".to_vec() => NOT_WASM, "text files";
        "a component": text("(component)") => NOT_WASM, "components";
        "four bytes": b"\0asm".to_vec() => NOT_VALID, "may be truncated";
        "another version": b"\0asm\x02\0\0\0".to_vec() => NOT_VALID, "";
        "cut short": cut => NOT_VALID, "may be truncated";
        "bytes behind its end": [&*good, &[0xff; 64]].concat() => NOT_VALID, "";
        "4 MiB and a byte": and_custom("fat", &vec![0; 4 << 20]) => OVER, "4194304";
        "2^32 - 1 variables": variables.to_vec() => OVER, "local variables";
    }
    .map(|(what, bytes, stage, why)| Hostile::new(what, bytes, Refused(stage, why)))
    .into()
}

fn sections() -> Vec<Hostile> {
    let key = |line: &str| {
        let text = format!("kind=policy\\0aabi=1.0\\0aname=x\\0a{line}\\0a");
        section(made(text))
    };
    let in_1_1 = |line: &str| {
        let text = format!("kind=policy\\0aabi=1.1\\0aname=x\\0a{line}\\0a");
        section(made(text))
    };
    let long = format!("kind=policy\\0aabi=1.0\\0aname={}", "x".repeat(4096));
    let seventeen: Vec<String> = (0..17).map(|at| format!("c{at}")).collect();
    let twice = with(format!("(@custom \"waxwing.module\" \"{SECTION}\")"));
    rows! {
        "a module of nothing": text("(module)") => "no custom section `waxwing.module`";
        "two sections": twice => "more than one";
        "a section of nothing": section("") => "no line `kind=";
        "a section of 4 kB": section(made(long)) => "at most 4096";
        "a section that is no text": section("kind=\\ff") => "not UTF-8";
        "another kind": section("kind=cheese") => "expected `policy`";
        "no version of the ABI": section("kind=policy\\0a") => "no line `abi=";
        "the next ABI": section("kind=policy\\0aabi=2.0") => "made for ABI 2.0";
        "a later ABI": section("kind=policy\\0aabi=1.99") => "made for ABI 1.99";
        "an ABI that is none": section("kind=policy\\0aabi=x") => "not a version";
        "no name": section("kind=policy\\0aabi=1.0") => "no line `name=";
        "payload without bound": key("payload=129") => "payload=129";
        "payload below zero": key("payload=-1") => "payload=-1";
        "a tick of 1 ms": key("tick=1") => "tick=1";
        "a tick of a month": key("tick=4000000000") => "tick=4000000000";
        "17 counters": key(&format!("counters={}", seventeen.join(","))) => "at most 16";
        "one counter twice": key("counters=a,a") => "counters=a,a";
        "shared cells below zero": in_1_1("shared=-1") => "shared=-1";
        "65,537 shared cells": in_1_1("shared=65537") => "shared=65537";
        "states in a third way": in_1_1("saves=2") => "saves=2";
        "a counter's name": key("counters=a b") => "counters=a b";
        "a terminal's commands in its name": key("version=\\1b[2J") => "control character";
        "a terminal's commands for a kind": section("kind=\\1b[2J") => "control character";
    }
    .map(|(what, bytes, why)| Hostile::new(what, bytes, Refused(SECTION_OF, why)))
    .into()
}

fn shapes() -> Vec<Hostile> {
    let bare = |more: &str| {
        text(&format!(
            "(module (@custom \"waxwing.module\" \"{SECTION}\") {more})"
        ))
    };
    let importing = |import: &str| bare(&format!("(import {import})"));
    let long_name = importing(&format!("\"env\" \"\\1b[2J{}\" (func)", "x".repeat(90_000)));
    let two = bare("(import \"env\" \"rand\" (func)) (import \"env\" \"clock\" (func))");
    let reexported = bare(
        "(import \"env\" \"pick\" (func $pick (param i32 i32) (result i32)))
         (export \"waxwing_pick\" (func $pick))",
    );
    let one_memory = bare("(memory (export \"memory\") 1)");
    let missing_pick = bare(
        "(memory (export \"memory\") 1)
         (func $f (export \"waxwing_reserve\") (param i32) (result i32) (local.get 0))
         (func (export \"waxwing_init\") (param i32 i32) (result i32) (local.get 0))",
    );
    let same = |name: &str| {
        with(format!(
            "(func $same) (export \"{name}\" (func $same)) (export \"{name}\" (func $same))"
        ))
    };
    rows! {
        "imports of functions": two => "imports `env.rand` and 1 more";
        "an import of a memory": importing("\"env\" \"m\" (memory 1)") => "imports `env.m`";
        "an import of a table": importing("\"env\" \"t\" (table 1 funcref)") => "imports `env.t`";
        "an import of a global": importing("\"env\" \"g\" (global i32)") => "imports `env.g`";
        "an import with a screenful of name": long_name => "imports `env.[2Jxxx";
        "an import for an export": reexported => "imports `env.pick`";
        "no function of the ABI": one_memory => "exports no `waxwing_reserve` (i32) -> (i32)";
        "no `waxwing_pick`": missing_pick => "exports no `waxwing_pick` (i32, i32) -> (i32)";
        "a memory of its own": memory("(memory 1)") => "exports no `memory`";
        "a function for a memory": memory("(memory 1) (func (export \"memory\"))") => "exports no `memory`";
        "two memories": memory("(memory (export \"memory\") 1) (memory 1)") => "2 memories";
        "two tables": with("(table 1 funcref) (table 1 funcref)") => "2 tables";
        "a tick of another type": with("(func (export \"waxwing_tick\") (result i32) i32.const 0)")
            => "must be (i32) -> ()";
        "64-bit arguments": with("(func (export \"waxwing_closed\") (param i64 i64))")
            => "is (i64, i64) -> ()";
        "a global for a function": with("(global (export \"waxwing_error\") i32 i32.const 0)")
            => "is not a function";
        "vectors": with("(func (drop (v128.const i64x2 1 1)))") => NOT_VALID;
        "a shared memory": memory("(memory (export \"memory\") 1 1 shared)") => NOT_VALID;
        "a memory of 64 bits": memory("(memory (export \"memory\") i64 1)") => NOT_VALID;
        "a tail call": with("(func $t (return_call $t))") => NOT_VALID;
        "an exception": with("(tag $e) (func (throw $e))") => NOT_VALID;
        "a type that is wrong": with("(func (param i32) (local.set 0 (i64.const 1)))") => NOT_VALID;
        "a start function with parameters": with("(func $s (param i32)) (start $s)") => NOT_VALID;
        "a terminal's commands for an export, twice": same("\\1b[2J") => "duplicate export";
        "a book for an export, twice": same(&"all work and no play ".repeat(4000)) => "duplicate export";
    }
    .map(|(what, bytes, why)| Hostile::new(what, bytes, Refused("", why)))
    .into()
}
