//! Reading CIFAR-10 from files that the tests write themselves: every form it is spread in, and
//! the ways in which such files go wrong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::{TempDir, tempdir};
use tilewise::{
    Error,
    data::{Cifar10, Form, class_names, load, locate},
};

const IMAGE_BYTES: usize = 3072;

/// Images of a batch; 0 stands for the test batch.
fn pixels(batch: usize, images: usize) -> Vec<u8> {
    (0..images * IMAGE_BYTES).map(|i| (i * 7 + i / 256 + batch * 31) as u8).collect()
}

fn labels(batch: usize, images: usize) -> Vec<u8> {
    (0..images).map(|record| ((batch * 3 + record) % 10) as u8).collect()
}

/// A binary batch file.
fn binary(batch: usize, images: usize) -> Vec<u8> {
    let pixels = pixels(batch, images);
    let records = labels(batch, images).into_iter().zip(pixels.chunks_exact(IMAGE_BYTES));
    records.flat_map(|(label, image)| [&[label], image].concat()).collect()
}

fn directory(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

/// The batches and their sizes, in the order in which they must come out; 0 is the test batch.
fn assert_holds(cifar: &Cifar10, train: &[(usize, usize)], test: Option<usize>) {
    let concat = |part: fn(usize, usize) -> Vec<u8>, batches: &[(usize, usize)]| -> Vec<u8> {
        batches.iter().flat_map(|&(batch, images)| part(batch, images)).collect()
    };
    let wide = |labels: Vec<u8>| labels.into_iter().map(u32::from).collect::<Vec<u32>>();
    assert_eq!(cifar.train.labels(), wide(concat(labels, train)));
    assert!(cifar.train.pixels() == concat(pixels, train), "training pixels differ");
    assert_eq!(cifar.test.as_ref().map(|set| set.len()), test);
    if let (Some(set), Some(images)) = (&cifar.test, test) {
        assert_eq!(set.labels(), wide(labels(0, images)));
        assert!(set.pixels() == pixels(0, images), "test pixels differ");
    }
}

fn failure(dir: &Path) -> (PathBuf, String) {
    match load(dir).unwrap_err() {
        Error::File { path, detail, .. } => (path.strip_prefix(dir).unwrap().to_path_buf(), detail),
        error => panic!("expected Error::File, found {error:?}"),
    }
}

#[track_caller]
fn assert_fails(dir: &TempDir, file: &str, words: &[&str]) {
    let (path, detail) = failure(dir.path());
    assert_eq!(path, Path::new(file), "{detail}");
    for word in words {
        assert!(detail.contains(word), "{word:?} is not in {detail:?}");
    }
}

#[test]
fn binary_batches_are_joined_in_order() {
    let dir = directory(&[
        ("cifar-10-batches-bin/data_batch_2.bin", binary(2, 70)),
        ("cifar-10-batches-bin/data_batch_1.bin", binary(1, 3)),
        ("cifar-10-batches-bin/test_batch.bin", binary(0, 2)),
    ]);
    let source = locate(dir.path()).unwrap().unwrap();
    assert_eq!(source.form, Form::BinaryFiles);
    assert!(source.to_string().ends_with("cifar-10-batches-bin"), "{source}");
    let cifar = load(dir.path()).unwrap();
    assert_holds(&cifar, &[(1, 3), (2, 70)], Some(2));
    assert_eq!(cifar.train.class_names(), class_names());
}

#[test]
fn files_may_stand_in_the_directory_itself_and_name_the_classes() {
    let names = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n";
    let dir = directory(&[
        ("data_batch_1.bin", binary(1, 1)),
        ("batches.meta.txt", names.as_bytes().to_vec()),
    ]);
    let cifar = load(dir.path()).unwrap();
    assert_holds(&cifar, &[(1, 1)], None);
    assert_eq!(cifar.train.class_names().concat(), "abcdefghij");

    fs::write(dir.path().join("batches.meta.txt"), "a\nb\n").unwrap();
    assert_fails(&dir, "batches.meta.txt", &["10 classes", "found 2"]);
}

#[test]
fn a_truncated_file_is_named_with_its_bytes() {
    let mut bytes = binary(1, 2);
    bytes.truncate(5000);
    let dir = directory(&[("data_batch_1.bin", bytes)]);
    assert_fails(&dir, "data_batch_1.bin", &["5000 bytes", "multiple of 3073", "1927 bytes"]);
    let dir = directory(&[("data_batch_1.bin", binary(1, 1)), ("test_batch.bin", vec![])]);
    assert_fails(&dir, "test_batch.bin", &["0 bytes"]);
}

#[test]
fn a_label_above_nine_is_named_with_its_place() {
    let mut bytes = binary(2, 40);
    bytes[35 * 3073] = 10;
    let dir = directory(&[("data_batch_1.bin", binary(1, 1)), ("data_batch_2.bin", bytes)]);
    assert_fails(&dir, "data_batch_2.bin", &["label 10", "record 35", "byte 107555", "0 to 9"]);
}

#[test]
fn batches_start_at_one_and_leave_no_gap() {
    let dir = directory(&[("cifar-10-batches-bin/data_batch_2.bin", binary(2, 1))]);
    assert_fails(&dir, "cifar-10-batches-bin", &["data_batch_1.bin is missing"]);
    let dir = directory(&[("test_batch.bin", binary(0, 1))]);
    assert_fails(&dir, "", &["data_batch_1.bin is missing"]);
    let dir = directory(&[
        ("data_batch_1.bin", binary(1, 1)),
        ("data_batch_2.bin", binary(2, 1)),
        ("data_batch_4.bin", binary(4, 1)),
    ]);
    assert_fails(&dir, "", &["data_batch_3.bin is missing"]);
}

#[test]
fn a_directory_without_cifar_says_what_to_do() {
    let dir = directory(&[("cifar-10-batches-bin/readme.html", vec![1]), ("notes", vec![2])]);
    assert!(locate(dir.path()).unwrap().is_none());
    assert!(locate(&dir.path().join("nowhere")).unwrap().is_none());
    assert_fails(&dir, "", &["cifar-10-batches-bin", "tilewise data download"]);
}

/// Stands in for a directory that must not be listed: permissions do not bind the superuser, whom
/// tests often run as, but a file in place of a directory fails in the same way for everybody.
#[test]
fn a_directory_that_cannot_be_listed_is_an_error_and_not_nothing() {
    let dir = directory(&[("cifar-10-batches-bin", vec![1])]);
    for place in [dir.path().to_path_buf(), dir.path().join("cifar-10-batches-bin")] {
        match locate(&place).unwrap_err() {
            Error::Io { path, action: "list", .. } => {
                assert!(path.ends_with("cifar-10-batches-bin"))
            }
            error => panic!("{error:?}"),
        }
    }
}

#[test]
fn a_batch_that_cannot_be_read_is_an_error() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("data_batch_1.bin")).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("data_batch_1.bin"), "{error}");
}

#[test]
fn names_of_classes_are_bounded() {
    let with_names = |name: &str| {
        let names = format!("a\nb\nc\nd\n{name}\nf\ng\nh\ni\nj\n");
        directory(&[("data_batch_1.bin", binary(1, 1)), ("batches.meta.txt", names.into_bytes())])
    };
    let longest = "ß".repeat(256);
    let dir = with_names(&longest);
    assert_eq!(load(dir.path()).unwrap().train.class_names()[4], longest);
    let words = ["class 4", "257 characters", "at most 256"];
    assert_fails(&with_names(&"x".repeat(257)), "batches.meta.txt", &words);
    assert_fails(&with_names(&"x".repeat(65_536)), "batches.meta.txt", &["at most 65536"]);
}

/// Each is refused before it is opened: opening a FIFO waits, and a device has no end.
#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    use std::os::unix::{fs::symlink, net::UnixListener};
    for name in ["data_batch_1.bin", "batches.meta.txt", "cifar-10-binary.tar.gz"] {
        let dir = tempdir().unwrap();
        let path = dir.path().join(name);
        if name == "batches.meta.txt" {
            fs::write(dir.path().join("data_batch_1.bin"), binary(1, 1)).unwrap();
        }
        let refused = |words: &[&str]| {
            if cfg!(feature = "archives") || !name.ends_with("gz") {
                assert_fails(&dir, name, words);
            }
            fs::remove_file(&path).unwrap();
        };
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused(&["FIFO", "regular file"]);
        drop(UnixListener::bind(&path).unwrap());
        refused(&["socket"]);
        symlink("/dev/zero", &path).unwrap();
        refused(&["device"]);
    }
    // Symbolic links to files are as good as files.
    let dir = directory(&[("kept", binary(1, 1))]);
    symlink("kept", dir.path().join("data_batch_1.bin")).unwrap();
    assert_holds(&load(dir.path()).unwrap(), &[(1, 1)], None);
}

/// The file has no content, so a test that reads it first takes long or fails otherwise.
#[test]
fn a_file_that_is_too_large_is_refused_before_it_is_read() {
    let dir = directory(&[]);
    let file = fs::File::create(dir.path().join("data_batch_1.bin")).unwrap();
    file.set_len(3073 << 30).unwrap();
    assert_fails(&dir, "data_batch_1.bin", &["at most 307300000"]);
}

#[cfg(not(feature = "archives"))]
#[test]
fn other_forms_name_the_feature_that_reads_them() {
    let dir = directory(&[("data_batch_1", vec![1])]);
    assert_fails(&dir, "data_batch_1", &["feature `archives`"]);
    let dir = directory(&[("cifar-10-binary.tar.gz", vec![1])]);
    assert_fails(&dir, "cifar-10-binary.tar.gz", &["feature `archives`"]);
}

#[cfg(feature = "archives")]
mod archives {
    use std::io::{Read, Write};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// A `.tar.gz` of the files in this order.
    fn tar_gz(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    /// Who pickled a batch.
    #[derive(Clone, Copy, Debug)]
    enum Writer {
        Python2,
        /// Python 3 with numpy 2, in this protocol.
        Python3(u8),
    }

    const WRITERS: [Writer; 5] = [
        Writer::Python2,
        Writer::Python3(2),
        Writer::Python3(3),
        Writer::Python3(4),
        Writer::Python3(5),
    ];

    /// What a pickle says of its array.
    #[derive(Clone, Copy)]
    struct Array {
        element: &'static [u8; 2],
        byte_order: u8,
        columns: u16,
        fortran: bool,
    }

    const BYTES: Array = Array { element: b"u1", byte_order: b'|', columns: 3072, fortran: false };

    /// The bytes that Python writes for `{'labels': [...], 'data': array}`, opcode by opcode.
    fn pickle(writer: Writer, array: Array, labels: &[u8], pixels: &[u8]) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        let mut put = |bytes: &[u8]| out.write_all(bytes).unwrap();
        let rows = [b'M', labels.len() as u8, (labels.len() >> 8) as u8];
        let columns = [b'M', array.columns as u8, (array.columns >> 8) as u8];
        let length = (pixels.len() as u32).to_le_bytes();
        let fortran = if array.fortran { b"\x88" } else { b"\x89" };
        let list: Vec<u8> = labels.iter().flat_map(|&label| [b'K', label]).collect();
        let state = |text: &[u8]| -> Vec<u8> {
            let unset = b"J\xff\xff\xff\xff";
            [b"(K\x03", text, &[array.byte_order], b"NNN", unset, unset, b"K\x00tb"].concat()
        };
        match writer {
            Writer::Python2 => {
                put(b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03");
                put(b"U\x06labelsq\x04]q\x05(");
                put(&list);
                put(b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07");
                put(b"cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01");
                put(&rows);
                put(&columns);
                put(b"\x86cnumpy\ndtype\nq\x0aU\x02");
                put(array.element);
                put(b"K\x00K\x01\x87Rq\x0b");
                put(&state(b"U\x01"));
                put(fortran);
                put(b"T");
                put(&length);
                put(pixels);
                put(b"tbU\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu.");
            }
            Writer::Python3(protocol @ (2 | 3)) => {
                put(&[0x80, protocol]);
                put(b"}q\x00(X\x06\0\0\0labelsq\x01]q\x02(");
                put(&list);
                put(b"eX\x04\0\0\0dataq\x03cnumpy._core.multiarray\n_reconstruct\nq\x04");
                put(b"cnumpy\nndarray\nq\x05K\x00\x85q\x06");
                if protocol == 2 {
                    put(b"c_codecs\nencode\nq\x07X\x01\0\0\0bq\x08X\x06\0\0\0latin1q\x09");
                    put(b"\x86q\x0aRq\x0b\x87q\x0cRq\x0d(K\x01");
                } else {
                    put(b"C\x01bq\x07\x87q\x08Rq\x09(K\x01");
                }
                put(&rows);
                put(&columns);
                put(b"\x86q\x0ecnumpy\ndtype\nq\x0fX\x02\0\0\0");
                put(array.element);
                put(b"q\x10\x89\x88\x87q\x11Rq\x12");
                put(&state(b"X\x01\0\0\0"));
                put(fortran);
                if protocol == 2 {
                    let text: String = pixels.iter().map(|&pixel| char::from(pixel)).collect();
                    put(b"h\x07X");
                    put(&(text.len() as u32).to_le_bytes());
                    put(text.as_bytes());
                    put(b"q\x15h\x09\x86q\x16Rq\x17tq\x18b");
                } else {
                    put(b"B");
                    put(&length);
                    put(pixels);
                    put(b"q\x13tq\x14b");
                }
                put(b"X\x09\0\0\0filenamesq\x19]q\x1a(X\x05\0\0\0a.pngq\x1beu.");
            }
            Writer::Python3(protocol) => {
                put(&[0x80, protocol]);
                put(b"\x95\0\0\0\0\0\0\0\0}\x94(\x8c\x06labels\x94]\x94(");
                put(&list);
                put(b"e\x8c\x04data\x94");
                if protocol == 4 {
                    put(b"\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94");
                    put(b"\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94");
                    put(b"\x87\x94R\x94(K\x01");
                    put(&rows);
                    put(&columns);
                    put(b"\x86\x94h\x07\x8c\x05dtype\x94\x93\x94\x8c\x02");
                } else {
                    put(b"\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96");
                    put(&(pixels.len() as u64).to_le_bytes());
                    put(pixels);
                    put(b"\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02");
                }
                put(array.element);
                put(b"\x94\x89\x88\x87\x94R\x94");
                put(&state(b"\x8c\x01"));
                if protocol == 4 {
                    put(fortran);
                    put(b"B");
                    put(&length);
                    put(pixels);
                    put(b"\x94t\x94b");
                } else {
                    put(&rows);
                    put(&columns);
                    put(if array.fortran { b"\x86\x94\x8c\x01F" } else { b"\x86\x94\x8c\x01C" });
                    put(b"\x94t\x94R\x94");
                }
                put(b"\x8c\x09filenames\x94]\x94\x8c\x05a.png\x94au.");
            }
        }
        out
    }

    fn pickled(writer: Writer, batch: usize, images: usize) -> Vec<u8> {
        pickle(writer, BYTES, &labels(batch, images), &pixels(batch, images))
    }

    #[test]
    fn pickles_of_every_protocol_hold_the_same() {
        for writer in WRITERS {
            let dir = directory(&[
                ("cifar-10-batches-py/data_batch_1", pickled(writer, 1, 2)),
                ("cifar-10-batches-py/data_batch_2", pickled(writer, 2, 3)),
                ("cifar-10-batches-py/test_batch", pickled(writer, 0, 1)),
            ]);
            assert_eq!(locate(dir.path()).unwrap().unwrap().form, Form::PickledFiles);
            let cifar = load(dir.path()).unwrap_or_else(|error| panic!("{writer:?}: {error}"));
            assert_holds(&cifar, &[(1, 2), (2, 3)], Some(1));
        }
    }

    #[test]
    fn pickled_names_are_those_of_the_classes() {
        let letters = b"abcdefghij";
        let mut python2 =
            b"\x80\x02}q\x01(U\x07num_visq\x02M\x00\x0cU\x0blabel_names]q\x03(".to_vec();
        let mut python3 = b"\x80\x04}\x94(\x8c\x0blabel_names\x94]\x94(".to_vec();
        for &letter in letters {
            python2.extend([b'U', 1, letter]);
            python3.extend([0x8c, 1, letter]);
        }
        python2.extend(b"eu.");
        python3.extend(b"eu.");
        for names in [python2, python3] {
            let batch = pickled(Writer::Python2, 1, 1);
            let dir = directory(&[("data_batch_1", batch), ("batches.meta", names)]);
            assert_eq!(load(dir.path()).unwrap().train.class_names().concat(), "abcdefghij");
        }
    }

    #[test]
    fn pickles_of_other_arrays_are_refused() {
        let cases: [(Array, &[&str]); 6] = [
            (Array { element: b"f4", byte_order: b'<', ..BYTES }, &["data", "uint8", "float32"]),
            (Array { element: b"i1", ..BYTES }, &["data", "uint8", "found int8"]),
            (Array { element: b"b1", ..BYTES }, &["data", "uint8", "found bool"]),
            (Array { element: b"S1", ..BYTES }, &["data", "uint8", "found numpy's \"S1\""]),
            (Array { columns: 3071, ..BYTES }, &["data", "[2, 3071]", "(images, 3072)"]),
            (Array { fortran: true, ..BYTES }, &["data", "Fortran"]),
        ];
        for writer in WRITERS {
            for (array, words) in cases {
                let bytes = pickle(writer, array, &labels(1, 2), &pixels(1, 2));
                assert_fails(&directory(&[("data_batch_1", bytes)]), "data_batch_1", words);
            }
        }
    }

    #[test]
    fn damaged_pickles_are_errors() {
        for writer in WRITERS {
            let whole = pickled(writer, 1, 2);
            for length in [0, 1, 40, 150, 3000, whole.len() - 1] {
                let dir = directory(&[("data_batch_1", whole[..length].to_vec())]);
                assert_fails(&dir, "data_batch_1", &["not a readable pickle"]);
            }
            let short = pickle(writer, BYTES, &labels(1, 2), &pixels(1, 2)[1..]);
            assert_fails(&directory(&[("data_batch_1", short)]), "data_batch_1", &["6143 bytes"]);
            let label = pickle(writer, BYTES, &[3, 10], &pixels(1, 2));
            let words = ["label 10", "record 1"];
            assert_fails(&directory(&[("data_batch_1", label)]), "data_batch_1", &words);
        }
        let dir = directory(&[("data_batch_1", b"\x80\x02K\x01.".to_vec())]);
        assert_fails(&dir, "data_batch_1", &["dictionary"]);
        let dir = directory(&[("data_batch_1", b"\x80\x02}.".to_vec())]);
        assert_fails(&dir, "data_batch_1", &["labels"]);
    }

    /// A good batch with another entry in its dictionary.
    fn with_entry(value: &[u8]) -> TempDir {
        let mut pickle = pickled(Writer::Python2, 1, 2);
        assert_eq!(pickle.split_off(pickle.len() - 2), b"u.");
        let pickle = [&pickle[..], b"U\x01x", value, b"u."].concat();
        directory(&[("data_batch_1", pickle)])
    }

    /// Under and on the bound, on a quarter of the stack that Rust gives a thread; beyond it,
    /// nesting would exhaust any stack.
    #[test]
    fn nesting_is_bounded_by_what_a_small_stack_holds() {
        let on_small_stack = |test: fn()| {
            std::thread::Builder::new().stack_size(512 << 10).spawn(test).unwrap().join().unwrap();
        };
        on_small_stack(|| {
            for depth in [1, 30] {
                let tuples = [&b"N"[..], &[0x85].repeat(depth)].concat();
                assert_holds(&load(with_entry(&tuples).path()).unwrap(), &[(1, 2)], None);
                // Each list through the memo, as Python writes lists.
                let mut lists = b"N".to_vec();
                for id in 0..depth as u8 {
                    lists.splice(0..0, [b']', b'q', 100 + id]);
                    lists.push(b'a');
                }
                assert_holds(&load(with_entry(&lists).path()).unwrap(), &[(1, 2)], None);
            }
        });
        on_small_stack(|| {
            for depth in [31, 10_000, 1_000_000] {
                let tuples = [&b"N"[..], &[0x85].repeat(depth)].concat();
                let dir = with_entry(&tuples);
                assert_fails(&dir, "data_batch_1", &["not a readable pickle", "nested"]);
                let dicts = [b"}N".repeat(depth), b"N".to_vec(), b"s".repeat(depth)].concat();
                assert_fails(&with_entry(&dicts), "data_batch_1", &["not a readable pickle"]);
            }
        });
    }

    /// 3^40 values from 300 bytes.
    #[test]
    fn references_to_references_are_bounded() {
        let mut laughs = b"K\x07q\x64".to_vec();
        for id in 100..140u8 {
            laughs.extend([b'0', b'h', id, b'h', id, b'h', id, 0x87, b'q', id + 1]);
        }
        assert_fails(&with_entry(&laughs), "data_batch_1", &["not a readable pickle", "values"]);
    }

    /// A few shared values are fine: numpy shares element types, Python strings.
    #[test]
    fn values_may_be_shared() {
        let shared = b"(]q\x64(K\x01K\x02eh\x64U\x03abcq\x65h\x65h\x65t";
        assert_holds(&load(with_entry(shared).path()).unwrap(), &[(1, 2)], None);
    }

    /// The order of the official archive is no order either.
    #[test]
    fn archives_may_hold_their_files_in_any_order() {
        let bin = tar_gz(&[
            ("cifar-10-batches-bin/data_batch_3.bin", binary(3, 2)),
            ("cifar-10-batches-bin/readme.html", b"<html>".to_vec()),
            ("cifar-10-batches-bin/data_batch_1.bin", binary(1, 35)),
            ("cifar-10-batches-bin/test_batch.bin", binary(0, 2)),
            ("cifar-10-batches-bin/data_batch_5.bin", binary(5, 3)),
            ("cifar-10-batches-bin/data_batch_4.bin", binary(4, 1)),
            ("cifar-10-batches-bin/data_batch_2.bin", binary(2, 4)),
        ]);
        let dir = directory(&[("cifar-10-binary.tar.gz", bin)]);
        assert_eq!(locate(dir.path()).unwrap().unwrap().form, Form::BinaryArchive);
        let order = [(1, 35), (2, 4), (3, 2), (4, 1), (5, 3)];
        assert_holds(&load(dir.path()).unwrap(), &order, Some(2));

        let names = ["data_batch_4", "data_batch_1", "test_batch", "data_batch_5", "data_batch_3"];
        let python = ["data_batch_2"].into_iter().chain(names).map(|name| {
            let batch =
                name.strip_prefix("data_batch_").map_or(0, |number| number.parse().unwrap());
            (format!("cifar-10-batches-py/{name}"), pickled(Writer::Python2, batch, 1 + batch))
        });
        let python: Vec<(String, Vec<u8>)> = python.collect();
        let python: Vec<_> = python.iter().map(|(name, b)| (name.as_str(), b.clone())).collect();
        let dir = directory(&[("cifar-10-python.tar.gz", tar_gz(&python))]);
        assert_eq!(locate(dir.path()).unwrap().unwrap().form, Form::PickledArchive);
        let order = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)];
        assert_holds(&load(dir.path()).unwrap(), &order, Some(1));
    }

    /// The six batches of a small binary archive, of 1 to 6 images.
    fn six() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("cifar-10-batches-bin/data_batch_1.bin", binary(1, 2)),
            ("cifar-10-batches-bin/data_batch_2.bin", binary(2, 3)),
            ("cifar-10-batches-bin/data_batch_3.bin", binary(3, 4)),
            ("cifar-10-batches-bin/data_batch_4.bin", binary(4, 5)),
            ("cifar-10-batches-bin/data_batch_5.bin", binary(5, 6)),
            ("cifar-10-batches-bin/test_batch.bin", binary(0, 1)),
        ]
    }

    fn assert_archive_fails(archive: Vec<u8>, words: &[&str]) {
        let dir = directory(&[("cifar-10-binary.tar.gz", archive)]);
        assert_fails(&dir, "cifar-10-binary.tar.gz", words);
    }

    #[test]
    fn an_archive_with_the_name_of_the_original_has_all_batches_or_says_which_are_missing() {
        for missing in 0..6 {
            let mut files = six();
            let (name, _) = files.remove(missing);
            let name = name.split('/').next_back().unwrap();
            assert_archive_fails(
                tar_gz(&files),
                &[&format!("{name} is missing"), "fetch it again"],
            );
            // A damaged name.
            let mut files = six();
            files[missing].0 = "cifar-10-batches-bin/data_batch_q.bin";
            assert_archive_fails(tar_gz(&files), &[&format!("{name} is missing")]);
        }
        let words = ["data_batch_4.bin, data_batch_5.bin, test_batch.bin are missing"];
        assert_archive_fails(tar_gz(&six()[..3]), &words);
    }

    #[test]
    fn an_archive_with_fewer_images_than_the_original_says_so() {
        let mut files = six();
        files[2].1 = vec![1; 10_000 * (1 + IMAGE_BYTES)];
        let dir = directory(&[("cifar-10-binary.tar.gz", tar_gz(&files))]);
        let warnings = load(dir.path()).unwrap().warnings;
        assert_eq!(warnings.len(), 5, "{warnings:?}");
        assert_eq!(warnings[0], "data_batch_1.bin has 2 images: the original has 10000");
        assert_eq!(warnings[4], "test_batch.bin has 1 images: the original has 10000");
        // Files in a directory are whatever the user has put there.
        let dir = directory(&six());
        assert_eq!(load(dir.path()).unwrap().warnings, Vec::<String>::new());
    }

    /// Cut between two members of the tar, with a whole gzip stream around it, and between two
    /// members of the gzip: nothing but the missing end tells.
    #[test]
    fn an_archive_cut_between_members_is_incomplete() {
        let gz = |bytes: &[u8]| {
            let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
            gz.write_all(bytes).unwrap();
            gz.finish().unwrap()
        };
        let mut files = six();
        files.push(("cifar-10-batches-bin/readme.html", vec![7; 100]));
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&tar_gz(&files)[..]).read_to_end(&mut tar).unwrap();
        let end = tar.len() - 1024;
        assert_eq!(tar[end..], [0; 1024]);
        let readme = end - 1024;
        let whole = [gz(&tar[..readme]), gz(&tar[readme..])].concat();
        let dir = directory(&[("cifar-10-binary.tar.gz", whole)]);
        let order = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)];
        assert_holds(&load(dir.path()).unwrap(), &order, Some(1));
        for cut in [readme, end, end + 512] {
            let words = ["damaged or incomplete archive", "two blocks of zeros", "fetch it again"];
            assert_archive_fails(gz(&tar[..cut]), &words);
        }
        // More blocks than two are usual.
        let dir = directory(&[("cifar-10-binary.tar.gz", gz(&[&tar[..], &[0; 8192]].concat()))]);
        assert_holds(&load(dir.path()).unwrap(), &order, Some(1));
    }

    /// A member for the header of the next one: its kind, the size that it says it has, its content.
    fn extension(kind: tar::EntryType, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("./extension").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        let mut bytes = [header.as_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// The small archive behind other members.
    fn behind(first: &[u8]) -> Vec<u8> {
        let mut tar = first.to_vec();
        flate2::read::GzDecoder::new(&tar_gz(&six())[..]).read_to_end(&mut tar).unwrap();
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&tar).unwrap();
        gz.finish().unwrap()
    }

    /// The size that the header says is refused, so that nothing of it need be read.
    #[test]
    fn long_names_are_bounded() {
        for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let words = ["900000000 bytes", "at most 65536"];
            assert_archive_fails(behind(&extension(kind, 900_000_000, &[b'x'; 4096])), &words);
        }
        // Link names and global headers are skipped, whatever their size.
        for kind in [tar::EntryType::GNULongLink, tar::EntryType::XGlobalHeader] {
            let archive = behind(&extension(kind, 5_000_000, &[b'x'; 5_000_000]));
            load(directory(&[("cifar-10-binary.tar.gz", archive)]).path()).unwrap();
        }
    }

    /// A long name replaces that of the next member.
    #[test]
    fn long_names_are_names() {
        let pax = |name: &str| {
            let record = format!(" path={name}\n");
            format!("{}{record}", record.len() + 2).into_bytes()
        };
        let (gnu, x) = (tar::EntryType::GNULongName, tar::EntryType::XHeader);
        let name = "cifar-10-batches-bin/data_batch_1.bin";
        for (kind, content) in [(gnu, [name.as_bytes(), &[0]].concat()), (x, pax(name))] {
            let archive = behind(&extension(kind, content.len() as u64, &content));
            load(directory(&[("cifar-10-binary.tar.gz", archive)]).path()).unwrap();
        }
        for (kind, content) in [(gnu, b"other\0".to_vec()), (x, pax("a/b"))] {
            let archive = behind(&extension(kind, content.len() as u64, &content));
            assert_archive_fails(archive, &["data_batch_1.bin is missing"]);
        }
        let size = b"11 size=99\n";
        let archive = behind(&extension(x, size.len() as u64, size));
        assert_archive_fails(archive, &["size of its own"]);
    }

    #[test]
    fn archives_with_the_wrong_files_are_errors() {
        let archive =
            |files: &[(&str, Vec<u8>)]| directory(&[("cifar-10-binary.tar.gz", tar_gz(files))]);
        let dir =
            archive(&[("data_batch_1.bin", binary(1, 1)), ("data_batch_1.bin", binary(1, 1))]);
        assert_fails(&dir, "cifar-10-binary.tar.gz/data_batch_1.bin", &["twice"]);
        let dir = archive(&[("elsewhere/data_batch_1.bin", binary(1, 1))]);
        assert_fails(&dir, "cifar-10-binary.tar.gz", &["data_batch_1.bin, data_batch_2.bin"]);
        let dir = archive(&[("data_batch_1.bin", binary(1, 1)[1..].to_vec())]);
        assert_fails(&dir, "cifar-10-binary.tar.gz/data_batch_1.bin", &["3072 bytes"]);
    }

    #[test]
    fn an_entry_of_nonsensical_size_is_refused_before_it_is_read() {
        let mut header = tar::Header::new_gnu();
        header.set_path("data_batch_1.bin").unwrap();
        header.set_size(3073 << 30);
        header.set_cksum();
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(header.as_bytes()).unwrap();
        let dir = directory(&[("cifar-10-binary.tar.gz", gz.finish().unwrap())]);
        assert_fails(&dir, "cifar-10-binary.tar.gz/data_batch_1.bin", &["too large"]);
    }

    #[test]
    fn a_truncated_archive_says_so() {
        let noise: Vec<u8> = (0..40u32)
            .flat_map(|record| {
                let mut state = record + 1;
                let pixel = move |_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                };
                std::iter::once(3).chain((0..IMAGE_BYTES).map(pixel))
            })
            .collect();
        let whole = tar_gz(&[("data_batch_1.bin", noise)]);
        for length in [0, 5, 200, whole.len() / 2, whole.len() - 4] {
            let dir = directory(&[("cifar-10-binary.tar.gz", whole[..length].to_vec())]);
            assert_fails(&dir, "cifar-10-binary.tar.gz", &["damaged or incomplete archive"]);
        }
        let mut wrong = whole.clone();
        let checksum = wrong.len() - 8;
        wrong[checksum] ^= 1;
        let dir = directory(&[("cifar-10-binary.tar.gz", wrong)]);
        assert_fails(&dir, "cifar-10-binary.tar.gz", &["damaged or incomplete archive"]);
    }
}
