//! Where the running kernel keeps the fields of its structs.
//!
//! Reads BTF, the kernel's own description of its types, as far as the programs need it: fields, enum values
//! and the parameters of tracepoints. Never guesses: what isn't found is absent.
//! The format is in the kernel's `Documentation/bpf/btf.rst`.
use std::collections::HashMap;

/// The types of a kernel, by name.
#[derive(Debug)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Offset in `types` of each type id; id 0 is `void` and has none.
    starts: Vec<usize>,
    /// Named structs, unions, enums and typedefs. The first of a name counts.
    by_name: HashMap<(Kind, String), u32>,
}

/// What isn't a readable description of types.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's type information is malformed: {0}")]
pub struct Malformed(&'static str);

/// Kinds of type that can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Struct,
    Enum,
    Typedef,
}

/// A parameter of a tracepoint, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// A pointer to the named struct.
    PointerTo(String),
    /// Anything else.
    Other,
}

const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

impl Btf {
    /// Reads the running kernel's types.
    pub fn of_running_kernel() -> std::io::Result<Self> {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux")?;
        Self::parse(&bytes).map_err(std::io::Error::other)
    }

    /// Reads types from bytes in the byte order of this machine.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let magic = bytes.get(..2).ok_or(Malformed("no header"))?;
        if magic != 0xeb9f_u16.to_ne_bytes() {
            return Err(Malformed("wrong magic"));
        }
        let word = |at| word(bytes, at).map(|word| word as usize);
        let header = |at| word(at).ok_or(Malformed("short header"));
        let (header_len, types_at, types_len) = (header(4)?, header(8)?, header(12)?);
        let (strings_at, strings_len) = (header(16)?, header(20)?);
        let section = |at: usize, len: usize| {
            let start = header_len.checked_add(at)?;
            bytes.get(start..start.checked_add(len)?).map(<[u8]>::to_vec)
        };
        let mut btf = Self {
            types: section(types_at, types_len).ok_or(Malformed("types beyond the end"))?,
            strings: section(strings_at, strings_len).ok_or(Malformed("strings beyond the end"))?,
            starts: vec![usize::MAX],
            by_name: HashMap::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    /// Byte offset of a field, also inside anonymous members.
    pub fn field(&self, of: &str, field: &str) -> Option<u32> {
        let id = *self.by_name.get(&(Kind::Struct, of.to_owned()))?;
        // Deeper than any kernel struct nests its anonymous members.
        self.field_in(id, field, 8)
    }

    /// Value of an enum's member.
    pub fn enum_value(&self, of: &str, member: &str) -> Option<u32> {
        let id = *self.by_name.get(&(Kind::Enum, of.to_owned()))?;
        let kind = self.kind(id)?;
        let stride = if kind == ENUM64 { 12 } else { 8 };
        let members = self.trailer(id)?;
        (0..self.vlen(id)?).find_map(|index| {
            let at = members + index * stride;
            (self.name(self.word(at)?)? == member).then(|| self.word(at + 4)).flatten()
        })
    }

    /// Parameters of a tracepoint, without the first, which is its private data.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<Parameter>> {
        let typedef = *self.by_name.get(&(Kind::Typedef, format!("btf_trace_{name}")))?;
        let pointer = self.target(typedef)?;
        let proto = self.target(pointer)?;
        if self.kind(pointer)? != PTR || self.kind(proto)? != FUNC_PROTO {
            return None;
        }
        let parameters = self.trailer(proto)?;
        (1..self.vlen(proto)?).map(|index| self.parameter(self.word(parameters + index * 8 + 4)?)).collect()
    }

    fn parameter(&self, id: u32) -> Option<Parameter> {
        let id = self.strip(id);
        if id == 0 || self.kind(id)? != PTR {
            return Some(Parameter::Other);
        }
        let target = self.strip(self.target(id)?);
        if target == 0 || self.kind(target)? != STRUCT {
            return Some(Parameter::Other);
        }
        let name = self.name(self.word(self.start(target)?)?)?;
        Some(Parameter::PointerTo(name.to_owned()))
    }

    fn field_in(&self, id: u32, field: &str, depth: u32) -> Option<u32> {
        let id = self.strip(id);
        if depth == 0 || id == 0 || !matches!(self.kind(id)?, STRUCT | UNION) {
            return None;
        }
        let has_bitfields = self.word(self.start(id)? + 4)? >> 31 == 1;
        let members = self.trailer(id)?;
        for index in 0..self.vlen(id)? {
            let at = members + index * 12;
            let (name, member, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let (bits, width) = if has_bitfields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            if name != 0 {
                if self.name(name)? != field {
                    continue;
                }
                let is_whole_bytes = width == 0 && bits.is_multiple_of(8);
                return is_whole_bytes.then_some(bits / 8);
            }
            if let Some(inner) = self.field_in(member, field, depth - 1) {
                return Some(bits / 8 + inner);
            }
        }
        None
    }

    /// Follows typedefs and qualifiers to what they stand for.
    fn strip(&self, mut id: u32) -> u32 {
        // Malformed types could form a circle; no chain is this long.
        for _ in 0..32 {
            match self.kind(id) {
                Some(TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG) => id = self.target(id).unwrap_or(0),
                _ => return id,
            }
        }
        0
    }

    fn index(&mut self) -> Result<(), Malformed> {
        let mut at = 0;
        while at < self.types.len() {
            let id = u32::try_from(self.starts.len()).map_err(|_| Malformed("too many types"))?;
            self.starts.push(at);
            let name = self.word(at).ok_or(Malformed("type beyond the end"))?;
            let info = self.word(at + 4).ok_or(Malformed("type beyond the end"))?;
            let (kind, vlen) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let named = match kind {
                STRUCT | UNION => Some(Kind::Struct),
                ENUM | ENUM64 => Some(Kind::Enum),
                TYPEDEF => Some(Kind::Typedef),
                _ => None,
            };
            if let (Some(named), true) = (named, name != 0) {
                let name = self.name(name).ok_or(Malformed("name beyond the end"))?.to_owned();
                self.by_name.entry((named, name)).or_insert(id);
            }
            at += 12 + trailer_len(kind, vlen).ok_or(Malformed("unknown kind of type"))?;
        }
        Ok(())
    }

    fn start(&self, id: u32) -> Option<usize> {
        self.starts.get(id as usize).copied()
    }

    fn trailer(&self, id: u32) -> Option<usize> {
        self.start(id)?.checked_add(12)
    }

    fn kind(&self, id: u32) -> Option<u32> {
        Some(self.word(self.start(id)?.checked_add(4)?)? >> 24 & 0x1f)
    }

    fn vlen(&self, id: u32) -> Option<usize> {
        Some((self.word(self.start(id)?.checked_add(4)?)? & 0xffff) as usize)
    }

    /// The type that this one refers to.
    fn target(&self, id: u32) -> Option<u32> {
        self.word(self.start(id)?.checked_add(8)?)
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(&self.types, at)
    }

    fn name(&self, at: u32) -> Option<&str> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }
}

/// Length of what follows the three words that every type has.
fn trailer_len(kind: u32, vlen: usize) -> Option<usize> {
    match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats and tags.
        PTR | 7..=12 | 16 | TYPE_TAG => Some(0),
        // Integers, variables and declaration tags.
        1 | 14 | 17 => Some(4),
        ARRAY => Some(12),
        // Structs, unions, data sections and wide enums.
        STRUCT | UNION | 15 | ENUM64 => Some(12 * vlen),
        ENUM | FUNC_PROTO => Some(8 * vlen),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand as the kernel's format says.
    #[derive(Default)]
    struct Writer {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn new() -> Self {
            Self { types: Vec::new(), strings: vec![0] }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn add(&mut self, name: &str, kind: u32, vlen: u32, target: u32, trailer: &[u32]) {
            let name = self.name(name);
            self.types.extend([name, kind << 24 | vlen, target]);
            self.types.extend(trailer);
        }

        fn bytes(&self) -> Vec<u8> {
            let types: Vec<u8> = self.types.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            let lens = [24, 0, types.len() as u32, types.len() as u32, self.strings.len() as u32];
            bytes.extend(lens.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    #[test]
    fn finds_fields_inside_anonymous_members() {
        let mut writer = Writer::new();
        writer.add("int", 1, 0, 4, &[32]);
        let (memory, swap) = (writer.name("memory"), writer.name("swap"));
        writer.add("", UNION, 1, 8, &[swap, 1, 32]);
        writer.add("mem_cgroup", STRUCT, 2, 16, &[memory, 1, 64, 0, 2, 128]);
        let btf = Btf::parse(&writer.bytes()).unwrap();

        assert_eq!(btf.field("mem_cgroup", "memory"), Some(8));
        assert_eq!(btf.field("mem_cgroup", "swap"), Some(16 + 4));
        assert_eq!(btf.field("mem_cgroup", "kmem"), None);
        assert_eq!(btf.field("page_counter", "usage"), None);
    }

    #[test]
    fn refuses_to_place_a_bitfield() {
        let mut writer = Writer::new();
        writer.add("int", 1, 0, 4, &[32]);
        let (flag, whole) = (writer.name("flag"), writer.name("whole"));
        writer.add("signal", STRUCT | 0x80, 2, 8, &[flag, 1, 1 << 24 | 3, whole, 1, 32]);
        let btf = Btf::parse(&writer.bytes()).unwrap();

        assert_eq!(btf.field("signal", "flag"), None);
        assert_eq!(btf.field("signal", "whole"), Some(4));
    }

    #[test]
    fn no_prefix_of_a_description_makes_it_panic() {
        let mut writer = Writer::new();
        writer.add("int", 1, 0, 4, &[32]);
        let field = writer.name("field");
        writer.add("s", STRUCT, 1, 8, &[field, 1, 0]);
        let bytes = writer.bytes();
        for len in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..len]).is_err(), "a prefix of {len} bytes was taken for whole");
        }
        // A type that refers to itself ends the search, not the stack.
        let mut circle = Writer::new();
        circle.add("loop", TYPEDEF, 0, 1, &[]);
        circle.add("s", STRUCT, 1, 8, &[0, 1, 0]);
        assert_eq!(Btf::parse(&circle.bytes()).unwrap().field("s", "x"), None);
    }

    #[test]
    fn reads_this_kernel() {
        let Ok(btf) = Btf::of_running_kernel() else {
            eprintln!("skipped: this kernel describes no types");
            return;
        };
        assert_eq!(btf.field("page_counter", "usage"), Some(0));
        assert!(btf.field("task_struct", "cgroups").is_some());
        assert!(btf.enum_value("cgroup_subsys_id", "memory_cgrp_id").is_some());
        let runtime = btf.tracepoint("sched_stat_runtime").unwrap();
        assert_eq!(runtime.first(), Some(&Parameter::PointerTo("task_struct".into())));
        assert_eq!(btf.tracepoint("no_such_tracepoint"), None);
    }
}
