//! Malicious module files, built byte by byte, that attack the code that reads, compiles or tries them.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, CustomSection, DataSection, ElementSection, Elements, Encode as _, ExportKind,
    ExportSection, Function, FunctionSection, Instruction, MemorySection, MemoryType, Module, RefType, StartSection,
    TableSection, TableType, TypeSection, ValType,
};

/// The first bytes of a component.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// A validator that accepts everything, with additions. Its answers come from a memory of zeros: no summary, no
/// examples, and the verdict "accept".
#[derive(Default)]
pub(crate) struct Guest {
    /// Locals and instructions of a function that is never called.
    pub(crate) unused: Option<(u32, Vec<u8>)>,
    /// Instructions of a function that runs when an instance is made.
    pub(crate) start: Option<Vec<u8>>,
    /// Instructions before the answer of `describe`.
    pub(crate) describe: Vec<u8>,
    /// Instructions before the answer of `validate`.
    pub(crate) validate: Vec<u8>,
    /// The number of its examples.
    pub(crate) examples: u32,
    /// Pages of memory.
    pub(crate) pages: u64,
    /// Additional types.
    pub(crate) types: u32,
    /// Additional exports.
    pub(crate) exports: u32,
}

/// Instructions that never end.
pub(crate) fn spin() -> Vec<u8> {
    instructions(&[Instruction::Loop(BlockType::Empty), Instruction::Br(0), Instruction::End])
}

pub(crate) fn instructions(all: &[Instruction<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    all.iter().for_each(|one| one.encode(&mut bytes));
    bytes
}

/// The addresses of `describe`'s answer, of the examples, and of `validate`'s answer.
const DESCRIPTION: i32 = 1024;
const EXAMPLES: i32 = 8192;
const VERDICT: i32 = 2048;

impl Guest {
    /// The core module, with the metadata that makes it a validator.
    pub(crate) fn core(&self) -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([], [ValType::I32]);
        let mut event = [ValType::I32; 13];
        event[10] = ValType::I64;
        types.ty().function(event, [ValType::I32]);
        types.ty().function([ValType::I32; 4], [ValType::I32]);
        types.ty().function([], []);
        for _ in 0..self.types {
            types.ty().function([], []);
        }
        let mut functions = FunctionSection::new();
        functions.function(0).function(1).function(2).function(3).function(3);
        let mut tables = TableSection::new();
        tables.table(TableType {
            element_type: RefType::FUNCREF,
            table64: false,
            minimum: 1,
            maximum: None,
            shared: false,
        });
        let mut memories = MemorySection::new();
        let minimum = self.pages.max(4);
        memories.memory(MemoryType { minimum, maximum: None, memory64: false, shared: false, page_size_log2: None });
        let mut exports = ExportSection::new();
        exports.export("memory", ExportKind::Memory, 0).export("describe", ExportKind::Func, 0);
        exports.export("validate", ExportKind::Func, 1).export("cabi_realloc", ExportKind::Func, 2);
        for number in 0..self.exports {
            exports.export(&format!("more {number}"), ExportKind::Func, 3);
        }
        let mut elements = ElementSection::new();
        elements.active(None, &ConstExpr::i32_const(0), Elements::Functions([3_u32].as_slice().into()));
        let mut code = CodeSection::new();
        code.function(&body(&self.describe, Some(DESCRIPTION), 0)).function(&body(&self.validate, Some(VERDICT), 0));
        code.function(&body(&[], Some(65_536), 0));
        let (locals, unused) = self.unused.clone().unwrap_or_default();
        code.function(&body(&unused, None, locals));
        code.function(&body(self.start.as_deref().unwrap_or_default(), None, 0));
        let mut data = DataSection::new();
        let description = [0, 0, EXAMPLES, i32::try_from(self.examples).expect("few")].map(i32::to_le_bytes).concat();
        data.active(0, &ConstExpr::i32_const(DESCRIPTION), description);
        // Each example has no title and no data, and expects "accept".
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&tables).section(&memories).section(&exports);
        if self.start.is_some() {
            module.section(&StartSection { function_index: 4 });
        }
        module.section(&elements).section(&code).section(&data);
        validator(module.finish())
    }

    /// The component made of the core module.
    pub(crate) fn component(&self) -> Vec<u8> {
        let encoder = wit_component::ComponentEncoder::default().module(&self.core());
        encoder.and_then(|mut encoder| encoder.encode()).expect("a validator")
    }
}

fn body(before: &[u8], answer: Option<i32>, locals: u32) -> Function {
    let mut function = Function::new((locals > 0).then_some((locals, ValType::I32)));
    function.raw(before.iter().copied());
    if let Some(answer) = answer {
        function.instruction(&Instruction::I32Const(answer));
    }
    function.instruction(&Instruction::End);
    function
}

/// Adds the metadata of a validator to a core module.
fn validator(mut module: Vec<u8>) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("validator.wit", include_str!("../../wit/validator.wit")).expect("the contract");
    let world = resolve.select_world(&[package], None).expect("one world");
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).expect("embedded");
    module
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![id];
    content.len().encode(&mut bytes);
    bytes.extend(content);
    bytes
}

fn custom(name: &str, content: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![0];
    CustomSection { name: name.into(), data: content.into() }.encode(&mut bytes);
    bytes
}

/// Nested component types.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut types = vec![1];
    types.extend(b"\x42\x01\x01".repeat(depth));
    types.push(0x73);
    section(7, &types)
}

/// Nested components.
fn nested_components(depth: usize) -> Vec<u8> {
    // Built backwards from the innermost, since each starts with the length of its content.
    let mut backwards = Vec::new();
    for _ in 0..depth {
        backwards.extend(COMPONENT.iter().rev());
        let mut length = Vec::new();
        backwards.len().encode(&mut length);
        backwards.extend(length.iter().rev());
        backwards.push(4);
    }
    backwards.reverse();
    backwards
}

/// A bomb: its name, its bytes, and the settings beside it.
pub(crate) struct Bomb {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) settings: &'static str,
}

fn bomb(name: &'static str, bytes: Vec<u8>) -> Bomb {
    Bomb { name, bytes, settings: "" }
}

fn unused(name: &'static str, locals: u32, code: Vec<u8>) -> Bomb {
    bomb(name, Guest { unused: Some((locals, code)), ..Guest::default() }.core())
}

/// Bombs that are refused within a second or two.
pub(crate) fn fast() -> Vec<Bomb> {
    let good = || Guest::default().component();
    let core = || Guest::default().core();
    let nested = || [COMPONENT.to_vec(), nested_types(1_000)].concat();
    let truncated = {
        let mut content = vec![1, 0, 0x41, 0, 0x0b];
        (1_u32 << 30).encode(&mut content);
        [core(), section(11, &content)].concat()
    };
    vec![
        bomb("types nested 1,000 deep", nested()),
        bomb("types nested 1,000 deep in the metadata of a core module", {
            let mut module = Module::new().finish();
            module.extend(custom("component-type:eye", nested()));
            module
        }),
        bomb("types nested 1,000 deep after a good component", [good(), nested_types(1_000)].concat()),
        bomb("types nested 100,000 deep", [COMPONENT.to_vec(), nested_types(100_000)].concat()),
        bomb("a data segment that says it has a GiB", truncated),
        bomb("a memory of 4 GiB from the start", Guest { pages: 65_536, ..Guest::default() }.core()),
        bomb("producers without end", [core(), custom("producers", vec![0xff; 1 << 20])].concat()),
        bomb("names without end", [core(), custom("name", vec![1; 1 << 20])].concat()),
    ]
}

/// Instructions that allocate all memory, and write to most of what a validator may have.
fn grow() -> Vec<u8> {
    instructions(&[
        Instruction::Loop(BlockType::Empty),
        Instruction::I32Const(16),
        Instruction::MemoryGrow(0),
        Instruction::I32Const(-1),
        Instruction::I32Ne,
        Instruction::BrIf(0),
        Instruction::End,
        Instruction::I32Const(131_072),
        Instruction::I32Const(7),
        Instruction::I32Const(60 << 20),
        Instruction::MemoryFill(0),
    ])
}

/// Bombs that use memory or time up to their bounds.
pub(crate) fn slow() -> Vec<Bomb> {
    let good = || Guest::default().component();
    let core = || Guest::default().core();
    let store = instructions(&[
        Instruction::I32Const(1_000_000),
        Instruction::I32Const(1_000_000),
        Instruction::I32Store(wasm_encoder::MemArg { offset: 1_000, align: 0, memory_index: 0 }),
    ]);
    let indirect =
        instructions(&[Instruction::I32Const(0), Instruction::CallIndirect { type_index: 3, table_index: 0 }]);
    let mut loops = instructions(&[Instruction::Loop(BlockType::Empty)]).repeat(100_000);
    loops.extend(instructions(&[Instruction::End]).repeat(100_000));
    let mut locals = Vec::new();
    for depth in 0..200_u32 {
        Instruction::Loop(BlockType::Empty).encode(&mut locals);
        for local in depth * 50..depth * 50 + 50 {
            locals.extend(instructions(&[
                Instruction::LocalGet(local),
                Instruction::I32Const(1),
                Instruction::I32Add,
                Instruction::LocalSet(local),
            ]));
        }
    }
    for depth in 0..200_u32 {
        locals.extend(instructions(&[Instruction::LocalGet(depth), Instruction::BrIf(0), Instruction::End]));
    }
    vec![
        bomb("10,000 components nested in a good one", [good(), nested_components(10_000)].concat()),
        bomb("10,000 empty components in a good one", {
            let mut bytes = good();
            (0..10_000).for_each(|_| bytes.extend(section(4, &COMPONENT)));
            bytes
        }),
        bomb("components nested 100,000 deep", [COMPONENT.to_vec(), nested_components(100_000)].concat()),
        unused("570,000 short operations in one function", 0, store.repeat(570_000)),
        unused("200,000 indirect calls", 0, indirect.repeat(200_000)),
        unused("100,000 nested loops", 0, loops),
        unused("10,000 locals in 200 loops", 10_000, locals),
        Bomb {
            settings: "deadline_ms = 4999",
            ..bomb("100 examples of 5 s each", Guest { examples: 100, validate: spin(), ..Guest::default() }.core())
        },
        bomb("a start that never ends", Guest { start: Some(spin()), ..Guest::default() }.core()),
        Bomb {
            settings: "deadline_ms = 4999",
            ..bomb("a description that never ends", Guest { describe: spin(), ..Guest::default() }.core())
        },
        bomb("memory for a description, to the limit", Guest { describe: grow(), ..Guest::default() }.core()),
        bomb("a million types", Guest { types: 999_000, ..Guest::default() }.core()),
        bomb("100,000 exports", Guest { exports: 99_000, ..Guest::default() }.core()),
        bomb("a custom section of 60 MB", [core(), custom("payload", vec![0x55; 60 << 20])].concat()),
        bomb("metadata of 60 MB", [core(), custom("component-type:more", vec![0; 60 << 20])].concat()),
        bomb("types nested 1,000 deep, 30 MB of them", {
            let mut bytes = COMPONENT.to_vec();
            (0..10_000).for_each(|_| bytes.extend(nested_types(100)));
            bytes
        }),
    ]
}
