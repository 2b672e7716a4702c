//! Archives of every kind, and every trick that they are known to play.

use std::{
    fs::{self, File},
    io::{Cursor, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use ::tar::{Builder, EntryType, Header};
use ::zip::write::{SimpleFileOptions, ZipWriter};
use proptest::prelude::*;

use super::*;

/// A directory to unpack into, and what lies beside it.
struct Place {
    directory: tempfile::TempDir,
    bytes_max: u64,
    entries_max: u64,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("in")).unwrap();
        fs::create_dir(directory.path().join("out")).unwrap();
        fs::write(directory.path().join("out/secret"), "secret").unwrap();
        Self { directory, bytes_max: 16 << 20, entries_max: 1000 }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("in")
    }

    fn unpack(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let mut file = tempfile::tempfile_in(self.directory.path()).unwrap();
        file.write_all(bytes).unwrap();
        let mut tree = Tree::new(OwnedFd::from(File::open(self.path()).unwrap()));
        let mut budget = Budget::new(self.bytes_max, self.entries_max);
        let unpacked = unpack(file, name, &mut tree, &mut budget);
        // Whatever happened: nothing beside it has changed.
        let out = self.directory.path().join("out");
        assert_eq!(fs::read_to_string(out.join("secret")).unwrap(), "secret");
        assert_eq!(fs::metadata(out.join("secret")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 2);
        unpacked
    }

    fn refused(&self, bytes: &[u8]) -> String {
        let failure = self.unpack("x.tar", bytes).unwrap_err();
        format!("{}: {}", failure.kind.as_str(), failure.what)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap()
    }
}

/// One entry as any hostile program can write it.
fn raw(name: &[u8], kind: EntryType, mode: u32, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    raw(name.as_bytes(), EntryType::Regular, 0o644, b"", content.as_bytes())
}

fn link(name: &str, to: &str) -> Vec<u8> {
    raw(name.as_bytes(), EntryType::Symlink, 0o777, to.as_bytes(), b"")
}

fn hard(name: &str, to: &str) -> Vec<u8> {
    raw(name.as_bytes(), EntryType::Link, 0o644, to.as_bytes(), b"")
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn plain() -> Vec<u8> {
    archive(&[
        raw(b"bin/", EntryType::Directory, 0o555, b"", b""),
        raw(b"bin/run", EntryType::Regular, 0o755, b"", b"#!/bin/sh\n"),
        file("./etc/deep/conf", "a=1\n"),
        link("bin/alias", "run"),
        hard("bin/twin", "bin/run"),
    ])
}

fn zipped(build: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    build(&mut writer);
    writer.finish().unwrap().into_inner()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xzed(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstded(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn every_kind_of_archive_is_told_by_its_content() {
    let tar = plain();
    let zip = zipped(|zip| {
        let mode = |mode| SimpleFileOptions::default().unix_permissions(mode);
        zip.add_directory("bin/", mode(0o555)).unwrap();
        zip.start_file("bin/run", mode(0o755)).unwrap();
        zip.write_all(b"#!/bin/sh\n").unwrap();
        zip.start_file("etc/deep/conf", mode(0o644)).unwrap();
        zip.write_all(b"a=1\n").unwrap();
        zip.add_symlink("bin/alias", "run", mode(0o777)).unwrap();
    });
    for (name, bytes) in [
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzipped(&tar)),
        ("a.tar.bz2", bzipped(&tar)),
        ("a.tar.xz", xzed(&tar)),
        ("a.tar.zst", zstded(&tar)),
        ("a.zip", zip),
        // The name is no more than a hint.
        ("download", gzipped(&tar)),
    ] {
        let place = Place::new();
        place.unpack(name, &bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(place.text("bin/run"), "#!/bin/sh\n", "{name}");
        assert_eq!(place.text("etc/deep/conf"), "a=1\n", "{name}");
        assert_eq!(fs::read_link(place.path().join("bin/alias")).unwrap(), Path::new("run"), "{name}");
        let mode = |path: &str| fs::metadata(place.path().join(path)).unwrap().mode() & 0o7777;
        // A directory can always be filled and removed by its owner.
        assert_eq!((mode("bin"), mode("bin/run"), mode("etc/deep/conf")), (0o755, 0o755, 0o644), "{name}");
        if name != "a.zip" {
            let facts = fs::metadata(place.path().join("bin/twin")).unwrap();
            assert_eq!((facts.nlink(), facts.mtime()), (2, 1_000_000_000), "{name}");
        }
    }
}

#[test]
fn streams_of_several_parts_are_read_to_their_end() {
    let tar = plain();
    let (first, second) = tar.split_at(700);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], b"abc".as_slice()].concat();
    for bytes in [
        [gzipped(first), gzipped(second)].concat(),
        [bzipped(first), bzipped(second)].concat(),
        [xzed(first), xzed(second)].concat(),
        [skippable.clone(), zstded(first), skippable, zstded(second)].concat(),
    ] {
        let place = Place::new();
        place.unpack("x", &bytes).unwrap();
        assert_eq!(place.text("etc/deep/conf"), "a=1\n");
    }
    // Two archives, one behind the other.
    let place = Place::new();
    place.unpack("x", &[archive(&[file("a", "1")]), archive(&[file("b", "2")])].concat()).unwrap();
    assert_eq!((place.text("a"), place.text("b")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn long_names_of_gnu_and_pax_are_known() {
    let place = Place::new();
    let long = format!("{}/{}/end", "d".repeat(120), "e".repeat(120));
    let mut gnu = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    gnu.append_data(&mut header, &long, b"1".as_slice()).unwrap();
    place.unpack("x", &gnu.into_inner().unwrap()).unwrap();
    assert_eq!(place.text(&long), "1");

    let place = Place::new();
    let mut pax = Builder::new(Vec::new());
    pax.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5".as_slice())]).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o600);
    header.set_path("short").unwrap();
    header.set_cksum();
    pax.append(&header, b"2".as_slice()).unwrap();
    place.unpack("x", &pax.into_inner().unwrap()).unwrap();
    assert_eq!(place.text(&long), "2");
}

#[test]
fn nothing_is_written_outside() {
    let secret = "../out/secret";
    for (entries, why) in [
        (vec![file("../out/evil", "x")], "leads upwards"),
        (vec![file("a/../../out/evil", "x")], "leads upwards"),
        (vec![file("/tmp/muster-evil", "x")], "is absolute"),
        (vec![link("l", "../out"), file("l/evil", "x")], "symbolic link"),
        (vec![link("l", ".."), link("m", "l/out"), file("m/evil", "x")], "symbolic link"),
        (vec![file("d/x", ""), link("d/l", "/"), file("d/l/tmp/evil", "x")], "symbolic link"),
        (vec![link("l", "../out"), raw(b"l/d", EntryType::Directory, 0o755, b"", b"")], "symbolic link"),
        (vec![link("l", "../out"), link("l/evil", "x")], "symbolic link"),
        (vec![hard("h", secret)], "leads upwards"),
        (vec![hard("h", "/etc/shadow")], "is absolute"),
        (vec![link("l", secret), hard("h", "l"), file("h", "x")], "is no file of it"),
        (vec![link("l", "../out"), hard("h", "l/secret")], "is no file of it"),
        (vec![hard("h", "absent")], "is no file of it"),
        (vec![raw(b"x", EntryType::Directory, 0o755, b"", b""), hard("h", "x")], "is no file of it"),
        (vec![file("", "x")], "replace the directory itself"),
        (vec![link(".", "/etc")], "replace the directory itself"),
    ] {
        let place = Place::new();
        let told = place.refused(&archive(&entries));
        assert!(told.starts_with("archive: ") && told.contains(why), "{told} (wanted: {why})");
    }
    for name in ["../out/evil", "/tmp/muster-evil", "a/../../out/evil"] {
        let place = Place::new();
        let bytes = zipped(|zip| zip.start_file(name, SimpleFileOptions::default()).unwrap());
        assert!(place.refused(&bytes).contains("the path"), "{name}");
    }
    let place = Place::new();
    let bytes = zipped(|zip| {
        zip.add_symlink("l", "../out", SimpleFileOptions::default()).unwrap();
        zip.start_file("l/evil", SimpleFileOptions::default()).unwrap();
    });
    assert!(place.refused(&bytes).contains("symbolic link"));
}

#[test]
fn a_link_gives_way_to_a_file_and_what_it_leads_to_stays() {
    let place = Place::new();
    symlink("../out/secret", place.path().join("old")).unwrap();
    place
        .unpack("x", &archive(&[link("l", "../out/secret"), file("l", "mine"), file("old", "new")]))
        .unwrap();
    assert_eq!((place.text("l"), place.text("old")), ("mine".to_owned(), "new".to_owned()));
    // A hard link's other name keeps its content.
    let place = Place::new();
    place.unpack("x", &archive(&[file("a", "first"), hard("b", "a"), file("a", "second")])).unwrap();
    assert_eq!((place.text("a"), place.text("b")), ("second".to_owned(), "first".to_owned()));
    // A link to itself stays what it was.
    let place = Place::new();
    place.unpack("x", &archive(&[file("a", "1"), hard("a", "a")])).unwrap();
    assert_eq!(place.text("a"), "1");
}

#[test]
fn duplicates_replace_files_but_no_directories() {
    let place = Place::new();
    place
        .unpack("x", &archive(&[file("a", "1"), file("a", "2"), file("d/x", "1"), file("d/y", "2")]))
        .unwrap();
    assert_eq!((place.text("a"), place.text("d/x"), place.text("d/y")), ("2".into(), "1".into(), "2".into()));
    let told = place.refused(&archive(&[file("d", "no directory")]));
    assert!(told.contains("would replace a directory"), "{told}");
    let told = place.refused(&archive(&[raw(b"a", EntryType::Directory, 0o755, b"", b"")]));
    assert!(told.contains("something else before"), "{told}");
    let told = place.refused(&archive(&[file("a/b", "x")]));
    assert!(told.contains("no directory"), "{told}");
}

#[test]
fn devices_pipes_and_unknown_kinds_are_refused_and_nothing_is_setuid() {
    for kind in
        [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse, EntryType::new(b'V')]
    {
        let place = Place::new();
        let told = place.refused(&archive(&[raw(b"dev", kind, 0o666, b"", b"")]));
        assert!(told.contains("it holds"), "{told}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
    let place = Place::new();
    let setuid = raw(b"su", EntryType::Regular, 0o6755, b"", b"x");
    let sticky = raw(b"d", EntryType::Directory, 0o7777, b"", b"");
    place.unpack("x", &archive(&[setuid, sticky])).unwrap();
    let mode = |path: &str| fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o7000;
    assert_eq!((mode("su"), mode("d")), (0, 0));
    let place = Place::new();
    let bytes = zipped(|zip| {
        // `unix_permissions` keeps the low nine bits, so the entry is given its kind by hand below.
        zip.start_file("dev", SimpleFileOptions::default().unix_permissions(0o644)).unwrap();
    });
    let central = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    for kind in [0o020_644_u32, 0o060_644, 0o010_644, 0o140_644] {
        let mut bytes = bytes.clone();
        bytes[central + 38..central + 42].copy_from_slice(&(kind << 16).to_le_bytes());
        let told = place.refused(&bytes);
        assert!(told.contains("a device, a pipe or a socket"), "{told}");
    }
    let mut setuid = bytes.clone();
    setuid[central + 38..central + 42].copy_from_slice(&(0o104_755_u32 << 16).to_le_bytes());
    place.unpack("x", &setuid).unwrap();
    assert_eq!(mode_of(&place.path().join("dev")), 0o755);
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn bombs_go_off_at_the_bound() {
    // 64 MiB of zeros in some kilobytes, in each kind.
    let zeros = vec![0; 64 << 20];
    let mut header = Header::new_gnu();
    header.set_size(zeros.len() as u64);
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_cksum();
    let tar = [header.as_bytes().as_slice(), &zeros, &[0; 1024]].concat();
    let zip = zipped(|zip| {
        zip.start_file("zeros", SimpleFileOptions::default()).unwrap();
        zip.write_all(&zeros).unwrap();
    });
    for bytes in [gzipped(&tar), zstded(&tar), zip] {
        let place = Place::new();
        assert!(bytes.len() < 1 << 20);
        assert!(place.refused(&bytes).starts_with("too-large: it takes more than the 16 MiB"));
        let left: u64 =
            fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(left <= place.bytes_max, "{left}");
    }
    // Many of nothing: by number, and by the room that even the empty ones take.
    let many: Vec<_> = (0..1200).map(|number| file(&number.to_string(), "")).collect();
    let place = Place::new();
    assert!(place.refused(&archive(&many)).contains("more than 1000 files"));
    let place = Place { bytes_max: 1 << 20, ..Place::new() };
    assert!(place.refused(&archive(&many)).starts_with("too-large: it takes more than the 1 MiB"));
    // Directories count, too, also those that are only named on the way.
    let deep = (0..60).map(|_| "d").collect::<Vec<_>>().join("/");
    let place = Place { entries_max: 20, ..Place::new() };
    assert!(place.refused(&archive(&[file(&deep[..79], "")])).contains("more than 20 files"));
}

#[test]
fn names_are_bounded() {
    let too_deep = format!("{}x", "d/".repeat(70));
    let long = "n".repeat(256);
    let endless = "d/".repeat(3000);
    for (name, why) in [(too_deep, "too deep"), (long, "too long"), (endless, "too long")] {
        let mut name = name.into_bytes();
        name.push(0);
        let place = Place::new();
        let told = place.refused(&archive(&[
            raw(b"././@LongLink", EntryType::GNULongName, 0, b"", &name),
            file("cut", "x"),
        ]));
        assert!(told.contains(why), "{told}");
    }
    // A header that wants all memory.
    let place = Place::new();
    let mut huge = raw(b"././@LongLink", EntryType::GNULongName, 0, b"", b"");
    let mut header = Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&huge[..512]);
    header.set_size(1 << 40);
    header.set_cksum();
    huge[..512].copy_from_slice(header.as_bytes());
    assert!(place.refused(&archive(&[huge])).contains("a header of 1099511627776 bytes"));
    // Headers that are followed by headers only.
    let endless: Vec<_> = (0..100).map(|_| raw(b"l", EntryType::GNULongName, 0, b"", b"name\0")).collect();
    assert!(place.refused(&archive(&endless)).contains("headers without an end"));
    for wrong in ["5 x", "99 path=x\n", "path=x\n", "-1 path=x\n", "11 pathx=\n9"] {
        let pax = raw(b"p", EntryType::XHeader, 0, b"", wrong.as_bytes());
        let told = place.refused(&archive(&[pax, file("x", "")]));
        assert!(told.contains("extended header"), "{wrong}: {told}");
    }
}

#[test]
fn what_is_cut_off_or_no_archive_is_said_to_be_so() {
    let tar = plain();
    for bytes in [tar[..700].to_vec(), tar[..1536].to_vec(), tar[..300].to_vec(), tar[..512].to_vec()] {
        let place = Place::new();
        let told = place.refused(&bytes);
        assert!(told.contains("cut off") || told.contains("no archive"), "{told}");
    }
    for whole in [gzipped(&tar), bzipped(&tar), xzed(&tar), zstded(&tar)] {
        for cut in [6, whole.len() / 2, whole.len() - 3] {
            let place = Place::new();
            assert!(place.refused(&whole[..cut]).starts_with("archive: "));
        }
    }
    for (name, bytes, why) in [
        ("x.tar", b"<html>".as_slice(), "it is no archive"),
        ("x.tar", b"", "it is no archive"),
        ("x.tar.gz", b"<html>not found</html>", "it is called gzip, but that is not what it holds"),
        ("x.tar.gz", &gzipped(b"text"), "it is no archive"),
        ("x.zip", b"PK\x03\x04nonsense", "damaged or cut off"),
    ] {
        let place = Place::new();
        let told = place.unpack(name, bytes).unwrap_err().what;
        assert!(told.contains(why), "{name}: {told}");
    }
    // A damaged header between good ones.
    let mut damaged = archive(&[file("a", "1"), file("b", "2")]);
    damaged[1024 + 5] ^= 1;
    assert!(Place::new().refused(&damaged).contains("checksum"));
}

#[test]
fn an_empty_archive_is_an_archive() {
    let place = Place::new();
    place.unpack("x.tar", &[0; 1024]).unwrap();
    place.unpack("x.zip", &zipped(|_| {})).unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

/// Names and targets that are worth trying.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::sample::select(vec!["a", "b", "l", "..", ".", "", "out", "in", "secret", "/", "\u{1}"]);
    prop_oneof![
        4 => prop::collection::vec(parts, 1..5).prop_map(|parts| parts.join("/").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// `Place::unpack` judges: whatever the entries are, nothing beside the directory changes.
    #[test]
    fn no_sequence_of_entries_leads_outside(
        entries in prop::collection::vec((names(), 0_usize..8, names(), any::<u32>()), 1..12),
    ) {
        const KINDS: [u8; 8] = *b"0125xLKV";
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, kind, link, mode)| {
                raw(name, EntryType::new(KINDS[*kind]), mode & 0o7777, link, b"content")
            })
            .collect();
        let _ = Place::new().unpack("x", &archive(&entries));
    }

    /// Bytes of a good archive, damaged: an error or not, but no panic and nothing outside.
    #[test]
    fn damage_is_never_more_than_an_error(
        kind in 0_usize..6,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let tar = plain();
        let mut bytes = match kind {
            0 => tar,
            1 => gzipped(&tar),
            2 => bzipped(&tar),
            3 => xzed(&tar),
            4 => zstded(&tar),
            _ => zipped(|zip| {
                zip.start_file("a/b", SimpleFileOptions::default()).unwrap();
                zip.write_all(b"content").unwrap();
            }),
        };
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = Place::new().unpack("x", &bytes);
    }
}
