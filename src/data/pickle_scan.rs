//! Scans the opcodes of a pickle before `serde-pickle` interprets them, without interpreting any.
//!
//! `serde-pickle` builds, copies and frees values recursively and copies what the memo holds at
//! every reference, so that a few bytes can exhaust the stack (nesting) or the memory (references
//! to references). The scan keeps the interpreter's stack and memo, with the nesting and the size
//! of each value in place of the value, and refuses what is beyond any batch of images.
//!
//! It also finds the element type of the array `data`, which the interpreter loses.

use std::collections::HashMap;

/// Levels of lists, tuples and dictionaries; the batches have four. A debug build needs less than
/// 512 KiB of stack for as many, a quarter of what Rust gives a thread.
const MAX_DEPTH: u32 = 32;
/// Values, copies included: ten times what the largest accepted batch has in labels and names.
const MAX_VALUES: u64 = 1 << 20;
/// Values that the interpreter makes room for at a mark.
const MARK_VALUES: u64 = 128;
/// How often the bytes of a pickle may be copied; numpy's protocol 2 needs three copies.
const MAX_COPIES: u64 = 8;
/// Bytes of copies that any pickle may have.
const FREE_BYTES: u64 = 1 << 16;
/// Longest number written in digits or in bytes. Decimal conversion takes quadratic time.
const MAX_NUMBER_BYTES: usize = 64;
/// Longest string whose content matters here.
const MAX_TEXT_BYTES: usize = 64;

/// Scans a pickle; returns the name of the element type of the array under the key `data` of its
/// dictionary, as numpy writes it (`u1`), if there is one.
///
/// # Errors
/// The problem, and its byte.
pub(super) fn scan(pickle: &[u8]) -> Result<Option<String>, String> {
    let mut scan = Scan {
        pickle,
        at: 0,
        stack: Vec::new(),
        below: Vec::new(),
        memo: HashMap::new(),
        values: 0,
        bytes: 0,
    };
    match scan.run() {
        Ok(top) => {
            let dtype = top.dtype.filter(|_| top.kind == Kind::Dict);
            Ok(dtype.map(|name| String::from_utf8_lossy(name).into_owned()))
        }
        Err(detail) => Err(format!("{detail}, at byte {}", scan.at)),
    }
}

/// The relevant types of values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string of characters.
    Text,
    /// Anything else without elements, including byte strings.
    Leaf,
    Global,
    List,
    Tuple,
    Dict,
    Set,
    /// What a call returned.
    Object,
}

/// The properties of a value.
#[derive(Clone, Copy)]
struct Item<'a> {
    kind: Kind,
    /// Levels, 1 for a leaf.
    depth: u32,
    /// Values in it, itself included, with all references resolved.
    values: u64,
    /// Bytes of the strings in it.
    bytes: u64,
    /// A short string, the name of a global, or a tuple's first element if that has one.
    text: Option<&'a [u8]>,
    /// Name of the first element type in it; of a dictionary, that of its `data`.
    dtype: Option<&'a [u8]>,
}

impl<'a> Item<'a> {
    fn new(kind: Kind) -> Self {
        Self { kind, depth: 1, values: 1, bytes: 0, text: None, dtype: None }
    }

    fn leaf(kind: Kind, payload: &'a [u8]) -> Self {
        let text = Some(payload).filter(|payload| payload.len() <= MAX_TEXT_BYTES);
        Self { bytes: payload.len() as u64, text, ..Self::new(kind) }
    }

    /// Adds another value.
    fn take(&mut self, element: &Item<'a>) -> Result<(), String> {
        self.depth = self.depth.max(element.depth + 1);
        self.values = self.values.saturating_add(element.values);
        self.bytes = self.bytes.saturating_add(element.bytes);
        if self.depth > MAX_DEPTH {
            return Err(format!("lists, tuples or dictionaries nested more than {MAX_DEPTH} deep"));
        }
        Ok(())
    }

    /// Adds the elements of a list, a tuple or a set.
    fn extend(&mut self, elements: &[Item<'a>]) -> Result<(), String> {
        for element in elements {
            self.take(element)?;
            self.dtype = self.dtype.or(element.dtype);
        }
        Ok(())
    }

    /// Adds the keys and values of a dictionary, which alternate.
    fn insert(&mut self, elements: &[Item<'a>]) -> Result<(), String> {
        for element in elements {
            self.take(element)?;
        }
        for pair in elements.chunks_exact(2) {
            let is_data = matches!(pair[0].kind, Kind::Text | Kind::Leaf)
                && pair[0].text == Some(b"data")
                // Of several, one that will be refused.
                && matches!(self.dtype, None | Some(b"u1"));
            if is_data {
                self.dtype = pair[1].dtype;
            }
        }
        Ok(())
    }
}

/// A value on the stack.
#[derive(Clone, Copy)]
struct Slot<'a> {
    item: Item<'a>,
    /// Where the memo has the value, which is then not in `item`.
    memo: Option<u32>,
}

/// A value in the memo.
struct Memo<'a> {
    item: Item<'a>,
    /// Whether something refers to it. It must not grow from then on: what refers to it was
    /// measured with its current size.
    is_shared: bool,
}

struct Scan<'a> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Slot<'a>>,
    /// What is on the stack below each open mark.
    below: Vec<Vec<Slot<'a>>>,
    memo: HashMap<u32, Memo<'a>>,
    /// Values made so far, and bytes of strings.
    values: u64,
    bytes: u64,
}

impl<'a> Scan<'a> {
    /// Follows the opcodes to the end; returns the value on top.
    fn run(&mut self) -> Result<Item<'a>, String> {
        loop {
            match self.array::<1>()?[0] {
                // PROTO, FRAME
                0x80 => _ = self.take(1)?,
                0x95 => _ = self.take(8)?,
                // STOP
                b'.' => return self.pop(),
                // MARK
                b'(' => {
                    self.charge(MARK_VALUES, 0)?;
                    self.below.push(std::mem::take(&mut self.stack));
                }
                // POP, POP_MARK, DUP
                b'0' if self.stack.is_empty() => drop(self.pop_mark()?),
                b'0' => _ = self.pop()?,
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = *self.stack.last().ok_or(UNDERFLOW)?;
                    self.push(self.item(&top))?;
                }
                // PUT, BINPUT, LONG_BINPUT, MEMOIZE
                b'p' => {
                    let id = self.memo_line()?;
                    self.memoize(id)?;
                }
                b'q' => {
                    let id = self.array::<1>()?[0];
                    self.memoize(id.into())?;
                }
                b'r' => {
                    let id = u32::from_le_bytes(self.array()?);
                    self.memoize(id)?;
                }
                0x94 => self.memoize(self.memo.len() as u32)?,
                // GET, BINGET, LONG_BINGET
                b'g' => {
                    let id = self.memo_line()?;
                    self.recall(id)?;
                }
                b'h' => {
                    let id = self.array::<1>()?[0];
                    self.recall(id.into())?;
                }
                b'j' => {
                    let id = u32::from_le_bytes(self.array()?);
                    self.recall(id)?;
                }
                // NONE, NEWTRUE, NEWFALSE, and numbers
                b'N' | 0x88 | 0x89 => self.push(Item::new(Kind::Leaf))?,
                b'I' | b'L' | b'F' => {
                    self.number_line()?;
                    self.push(Item::new(Kind::Leaf))?;
                }
                b'K' => self.push_number(1)?,
                b'M' => self.push_number(2)?,
                b'J' => self.push_number(4)?,
                b'G' => self.push_number(8)?,
                0x8a => {
                    let length = self.array::<1>()?[0];
                    self.push_number(length.into())?;
                }
                0x8b => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.push_number(length.into())?;
                }
                // STRING, UNICODE
                b'S' => {
                    let line = self.line()?;
                    let inner = line.strip_prefix(b"'").and_then(|line| line.strip_suffix(b"'"));
                    self.push(Item::leaf(Kind::Leaf, inner.unwrap_or(line)))?;
                }
                b'V' => {
                    let line = self.line()?;
                    self.push(Item::leaf(Kind::Text, line))?;
                }
                // SHORT_BINSTRING, SHORT_BINBYTES, BINSTRING, BINBYTES, BINBYTES8, BYTEARRAY8
                b'U' | b'C' => self.push_string::<1>(Kind::Leaf)?,
                b'T' | b'B' => self.push_string::<4>(Kind::Leaf)?,
                0x8e | 0x96 => self.push_string::<8>(Kind::Leaf)?,
                // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
                0x8c => self.push_string::<1>(Kind::Text)?,
                b'X' => self.push_string::<4>(Kind::Text)?,
                0x8d => self.push_string::<8>(Kind::Text)?,
                // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
                b')' => self.push(Item::new(Kind::Tuple))?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let elements = self.pop_mark()?;
                    self.collect(Kind::Tuple, &elements)?;
                }
                // EMPTY_LIST, LIST, APPEND, APPENDS
                b']' => self.push(Item::new(Kind::List))?,
                b'l' => {
                    let elements = self.pop_mark()?;
                    self.collect(Kind::List, &elements)?;
                }
                b'a' => {
                    let element = self.pop()?;
                    self.grow(Kind::List, &[element])?;
                }
                b'e' => {
                    let elements = self.pop_mark()?;
                    self.grow(Kind::List, &elements)?;
                }
                // EMPTY_DICT, DICT, SETITEM, SETITEMS
                b'}' => self.push(Item::new(Kind::Dict))?,
                b'd' => {
                    let elements = self.pop_mark()?;
                    self.collect(Kind::Dict, &elements)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.grow(Kind::Dict, &[key, value])?;
                }
                b'u' => {
                    let elements = self.pop_mark()?;
                    self.grow(Kind::Dict, &elements)?;
                }
                // EMPTY_SET, ADDITEMS, FROZENSET
                0x8f => self.push(Item::new(Kind::Set))?,
                0x90 => {
                    let elements = self.pop_mark()?;
                    self.grow(Kind::Set, &elements)?;
                }
                0x91 => {
                    let elements = self.pop_mark()?;
                    self.collect(Kind::Object, &elements)?;
                }
                // GLOBAL, STACK_GLOBAL, REDUCE
                b'c' => {
                    self.line()?;
                    let name = self.line()?;
                    self.push(Item::leaf(Kind::Global, name))?;
                }
                0x93 => {
                    let [name, module] = [self.pop()?, self.pop()?];
                    if [name.kind, module.kind] != [Kind::Text; 2] {
                        return Err("a global whose name is not a string".into());
                    }
                    self.push(Item { text: name.text, ..Item::new(Kind::Global) })?;
                }
                b'R' => self.call()?,
                // INST, OBJ, NEWOBJ, NEWOBJ_EX, BUILD
                b'i' => {
                    self.line()?;
                    self.line()?;
                    let elements = self.pop_mark()?;
                    self.collect(Kind::Tuple, &elements)?;
                }
                b'o' => {
                    let elements = self.pop_mark()?;
                    self.pop()?;
                    self.collect(Kind::Tuple, &elements)?;
                }
                0x81 => {
                    let arguments = self.stack.pop().ok_or(UNDERFLOW)?;
                    self.pop()?;
                    self.stack.push(arguments);
                }
                0x92 => {
                    let [keywords, arguments] = [self.pop()?, self.pop()?];
                    self.pop()?;
                    self.collect(Kind::Tuple, &[arguments, keywords])?;
                }
                b'b' => self.build()?,
                code => return Err(format!("unsupported opcode 0x{code:02x}")),
            }
        }
    }

    /// The next `length` bytes.
    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let rest = &self.pickle[self.at..];
        let bytes = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let bytes = bytes.ok_or("the file ends within a pickle")?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// The rest of the line, without its end.
    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.pickle[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("the file ends within a pickle")? as u64 + 1)?;
        let line = &line[..line.len() - 1];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn number_line(&mut self) -> Result<&'a [u8], String> {
        let line = self.line()?;
        if line.len() > MAX_NUMBER_BYTES {
            return Err(format!("a number of {} digits", line.len()));
        }
        Ok(line)
    }

    fn memo_line(&mut self) -> Result<u32, String> {
        let line = str::from_utf8(self.number_line()?).ok();
        line.and_then(|line| line.parse().ok()).ok_or_else(|| "no number of a memo entry".into())
    }

    /// Counts values and bytes that the interpreter makes or copies.
    fn charge(&mut self, values: u64, bytes: u64) -> Result<(), String> {
        self.values = self.values.saturating_add(values);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.values > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values, references resolved"));
        }
        let limit = FREE_BYTES + MAX_COPIES * self.pickle.len() as u64;
        if self.bytes > limit {
            let length = self.pickle.len();
            return Err(format!("strings of more than {limit} bytes from a file of {length}"));
        }
        Ok(())
    }

    /// Puts a new value on the stack.
    fn push(&mut self, item: Item<'a>) -> Result<(), String> {
        self.charge(item.values, item.bytes)?;
        self.stack.push(Slot { item, memo: None });
        Ok(())
    }

    fn push_number(&mut self, length: u64) -> Result<(), String> {
        if self.take(length)?.len() > MAX_NUMBER_BYTES {
            return Err(format!("a number of {length} bytes"));
        }
        self.push(Item::new(Kind::Leaf))
    }

    /// Puts a string on the stack; its length, `N` bytes, comes first.
    fn push_string<const N: usize>(&mut self, kind: Kind) -> Result<(), String> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(&self.array::<N>()?);
        let payload = self.take(u64::from_le_bytes(length))?;
        self.push(Item::leaf(kind, payload))
    }

    /// The value of a slot, from the memo if it is there.
    fn item(&self, slot: &Slot<'a>) -> Item<'a> {
        match slot.memo.and_then(|id| self.memo.get(&id)) {
            Some(memo) => Item { dtype: slot.item.dtype.or(memo.item.dtype), ..memo.item },
            None => slot.item,
        }
    }

    fn pop(&mut self) -> Result<Item<'a>, String> {
        let slot = self.stack.pop().ok_or(UNDERFLOW)?;
        Ok(self.item(&slot))
    }

    /// Takes what is above the last mark off the stack.
    fn pop_mark(&mut self) -> Result<Vec<Item<'a>>, String> {
        let below = self.below.pop().ok_or(UNDERFLOW)?;
        let above = std::mem::replace(&mut self.stack, below);
        Ok(above.iter().map(|slot| self.item(slot)).collect())
    }

    /// Moves the value on top to the memo and leaves a reference.
    fn memoize(&mut self, id: u32) -> Result<(), String> {
        let slot = self.stack.pop().ok_or(UNDERFLOW)?;
        let item = self.item(&slot);
        // The interpreter copies what is in the memo already; an entry takes about a value's room.
        let (values, bytes) = if slot.memo.is_some() { (item.values, item.bytes) } else { (0, 0) };
        self.charge(values + 1, bytes)?;
        if self.memo.insert(id, Memo { item, is_shared: false }).is_some() {
            return Err(format!("memo entry {id} is set twice"));
        }
        self.stack.push(Slot { item: Item::new(item.kind), memo: Some(id) });
        Ok(())
    }

    /// Puts a reference to the memo on the stack, which becomes a copy in the end.
    fn recall(&mut self, id: u32) -> Result<(), String> {
        let memo = self.memo.get_mut(&id).ok_or("a reference to a missing memo entry")?;
        memo.is_shared = true;
        let item = memo.item;
        self.charge(item.values, item.bytes)?;
        self.stack.push(Slot { item: Item::new(item.kind), memo: Some(id) });
        Ok(())
    }

    /// Puts a new collection on the stack.
    fn collect(&mut self, kind: Kind, elements: &[Item<'a>]) -> Result<(), String> {
        let mut item = Item::new(kind);
        if kind == Kind::Dict {
            item.insert(elements)?;
        } else {
            item.extend(elements)?;
        }
        if kind == Kind::Tuple {
            item.text = elements.first().and_then(|first| first.text);
        }
        self.charge(1, 0)?;
        self.stack.push(Slot { item, memo: None });
        Ok(())
    }

    fn tuple(&mut self, length: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(length).ok_or(UNDERFLOW)?;
        let slots = self.stack.split_off(start);
        let elements: Vec<Item<'_>> = slots.iter().map(|slot| self.item(slot)).collect();
        self.collect(Kind::Tuple, &elements)
    }

    /// Adds elements to the collection on top.
    fn grow(&mut self, kind: Kind, elements: &[Item<'a>]) -> Result<(), String> {
        let top = self.stack.last_mut().ok_or(UNDERFLOW)?;
        let item = match top.memo.and_then(|id| self.memo.get_mut(&id)) {
            Some(memo) if memo.is_shared => {
                return Err("a collection grows that something refers to already".into());
            }
            Some(memo) => &mut memo.item,
            None => &mut top.item,
        };
        if item.kind != kind {
            return Err("elements for something that takes none of the kind".into());
        }
        if kind == Kind::Dict { item.insert(elements) } else { item.extend(elements) }
    }

    /// Calls a global: the interpreter keeps the arguments, copied, in place of a result.
    fn call(&mut self) -> Result<(), String> {
        let [arguments, global] = [self.pop()?, self.pop()?];
        if (arguments.kind, global.kind) != (Kind::Tuple, Kind::Global) {
            return Err("a call of something else than a global with a tuple".into());
        }
        let dtype = if global.text == Some(b"dtype") { arguments.text } else { arguments.dtype };
        self.push(Item { kind: Kind::Object, text: None, dtype, ..arguments })
    }

    /// Gives an object its state, which the interpreter keeps in place of the object.
    fn build(&mut self) -> Result<(), String> {
        let mut state = self.stack.pop().ok_or(UNDERFLOW)?;
        let object = self.pop()?;
        state.item.dtype = object.dtype.or(self.item(&state).dtype);
        self.stack.push(state);
        Ok(())
    }
}

const UNDERFLOW: &str = "an opcode takes more than the stack has";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_refused(pickle: &[u8], word: &str) {
        let detail = scan(pickle).unwrap_err();
        assert!(detail.contains(word), "{detail}");
    }

    /// Nests by every opcode that can; `serde-pickle` on a thread of tests would not survive more.
    #[test]
    fn every_way_to_nest_is_bounded() {
        let many = 100_000;
        // TUPLE1 and lists built from the inside, and from the outside with marks.
        assert_refused(&[&b"N"[..], &[0x85].repeat(many)].concat(), "nested");
        assert_refused(&[b"(".repeat(many), b"l".repeat(many)].concat(), "values");
        assert_refused(&[b"]".repeat(many), b"a".repeat(many)].concat(), "nested");
        let dicts = [b"}N".repeat(many), b"N".to_vec(), b"s".repeat(many)].concat();
        assert_refused(&dicts, "nested");
        // Marks that are never closed take room of their own.
        assert_refused(&b"(".repeat(many), "values");
        // Through the memo: each list holds the one before, or is told of it later.
        let mut chain = b"]r\0\0\0\0".to_vec();
        for id in 1..many as u32 {
            chain.extend(
                [b"]r", &id.to_le_bytes()[..], b"j", &(id - 1).to_le_bytes(), b"a"].concat(),
            );
        }
        assert_refused(&chain, "nested");
        assert_refused(b"]q\x00]q\x01h\x00ah\x00h\x01a.", "refers to already");
        // A list that takes copies of itself: twice as many values each time.
        assert_refused(&[&b"]"[..], &b"2a".repeat(many)].concat(), "values");
    }

    /// Copies of copies: 3^30 values from 200 bytes, and the like with bytes.
    #[test]
    fn what_grows_by_references_is_bounded() {
        let mut laughs = b"K\x07q\x00".to_vec();
        for id in 0..20u8 {
            laughs.extend([b'h', id, b'h', id, b'h', id, 0x87, b'q', id + 1]);
        }
        assert_refused(&laughs, "values");
        let long =
            [&b"T\x00\x10\0\0"[..], &[b'x'; 0x1000], b"q\x00", &b"h\x00".repeat(5000)].concat();
        assert_refused(&long, "strings of more than");
        let copies = [&b"T\x00\x10\0\0"[..], &[b'x'; 0x1000], &b"2".repeat(5000)].concat();
        assert_refused(&copies, "strings of more than");
        assert_refused(&[&b"L"[..], &b"9".repeat(100_000), b"\n."].concat(), "digits");
        assert_refused(&b"N".repeat(2_000_000), "values");
    }

    #[test]
    fn what_the_interpreter_would_print_in_full_is_refused() {
        for pickle in [&b"Na."[..], b"NNNs.", b"N(e.", b"]R.", b"))R.", b"C\x01aC\x01b\x93."] {
            scan(pickle).unwrap_err();
        }
        assert_refused(b"h\x00.", "missing memo entry");
        assert_refused(b"]q\x00]q\x00.", "twice");
        assert_refused(b"]q\x00h\x00a.", "refers to already");
        assert_refused(b"P1\n.", "opcode 0x50");
        assert_refused(b"a", "stack");
        assert_refused(b"T\xff\xff\xff\xff", "ends");
    }

    /// Random programs: what the scan accepts never makes the interpreter print a value that an
    /// opcode cannot work with, and the interpreter accepts little that the scan refuses.
    #[test]
    fn the_scan_follows_the_interpreter() {
        const SEED: u64 = 11;
        const TOKENS: [&[u8]; 34] = [
            b"(",
            b"0",
            b"1",
            b"2",
            b"N",
            b"K\x05",
            b"I3\n",
            b"L4L\n",
            b"U\x01a",
            b"X\x01\0\0\0b",
            b"S'c'\n",
            b")",
            b"\x85",
            b"\x86",
            b"\x87",
            b"t",
            b"]",
            b"l",
            b"a",
            b"e",
            b"}",
            b"d",
            b"s",
            b"u",
            b"\x8f",
            b"\x90",
            b"\x91",
            b"cm\nx\n",
            b"\x93",
            b"R",
            b"b",
            b"\x81",
            b"o",
            b"h\x00",
        ];
        let mut state = SEED;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let options =
            serde_pickle::DeOptions::new().keep_restore_state().replace_unresolved_globals();
        let (mut both, mut only_interpreter) = (0, 0);
        for round in 0..100_000 {
            let mut pickle = Vec::new();
            for id in 0..2 + random(12) as u8 {
                pickle.extend(TOKENS[random(TOKENS.len())]);
                if random(4) == 0 {
                    pickle.extend([b'q', id]);
                }
            }
            pickle.push(b'.');
            let interpreted = serde_pickle::value_from_slice(&pickle, options.clone());
            let scanned = scan(&pickle);
            let context = || format!("seed {SEED}, round {round}: {pickle:x?} {interpreted:?}");
            match (&scanned, &interpreted) {
                (Ok(_), Err(serde_pickle::Error::Eval(code, _))) => {
                    // Wrong arguments of a call are not the scan's business.
                    let is_printed = matches!(code, serde_pickle::ErrorCode::InvalidStackTop(..));
                    assert!(!is_printed, "{}", context());
                }
                (Ok(_), Ok(_)) => both += 1,
                (Err(_), Ok(_)) => only_interpreter += 1,
                _ => {}
            }
        }
        assert!(both > 1000 && only_interpreter < both / 20, "{both} {only_interpreter}");
    }

    #[test]
    fn the_element_type_is_that_of_data() {
        let dtype = |name: &str| {
            [b"cnumpy\ndtype\nU", &[name.len() as u8][..], name.as_bytes(), b"K\x00K\x01\x87R"]
                .concat()
        };
        let entry = |key: &str, name: &str| {
            [b"U", &[key.len() as u8][..], key.as_bytes(), &dtype(name), b"\x85s"].concat()
        };
        let pickle = |entries: &[Vec<u8>]| [&b"}"[..], &entries.concat(), b"."].concat();
        let found = |entries: &[Vec<u8>]| scan(&pickle(entries)).unwrap();
        assert_eq!(found(&[entry("data", "u1")]).as_deref(), Some("u1"));
        assert_eq!(found(&[entry("mean", "f4"), entry("data", "i1")]).as_deref(), Some("i1"));
        assert_eq!(found(&[entry("data", "u1"), entry("mean", "f4")]).as_deref(), Some("u1"));
        assert_eq!(found(&[entry("data", "b1"), entry("data", "u1")]).as_deref(), Some("b1"));
        assert_eq!(found(&[entry("mean", "u1")]), None);
        assert_eq!(scan(b"K\x01.").unwrap(), None);
    }
}
