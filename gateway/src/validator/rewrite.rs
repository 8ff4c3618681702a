//! Rewrites a validator's core module so that an instance of it can be set back after an event: whatever writes to its
//! memory also marks the card that was written to, in a second memory that the module itself cannot name, and every
//! mutable global can be reached from outside. Bytes to bytes; a module that could keep something where no mark tells of
//! it is unfit, and judged in fresh instances instead.

use std::collections::HashMap;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    BlockType, CodeSection, Encode as _, ExportKind, ExportSection, Function, FunctionSection, Instruction, MemArg,
    MemorySection, MemoryType, Module, TypeSection, ValType,
};
use wasmparser::{ExternalKind, FunctionBody, Operator, Parser, Payload, Validator, WasmFeatures};

/// Two to this power are the bytes of a card: small cards are cheap to copy back, large ones cheap to look through.
/// Measured by `benches/judging.rs`.
pub(super) const CARD_SHIFT: u32 = 9;

/// Bytes of a card. A store may reach over the end of the card that it marks, by [`STORE_REACH`] at most.
pub(super) const CARD_BYTES: usize = 1 << CARD_SHIFT;

/// How far the widest store, of 16 bytes, reaches beyond the card in which it begins.
pub(super) const STORE_REACH: usize = 15;

/// Bytes of the marks: one for each card of 4 GiB, so that no mark can miss. Only what is touched takes memory.
pub(super) const MARKS_BYTES: usize = 1 << (32 - CARD_SHIFT);

/// Mutable globals that are set back after each event; compilers make one or two.
const GLOBALS_MAX: usize = 64;

/// Texts of an event.
pub(super) const TEXTS: usize = 6;

/// What a module may be made of. All else, threads and a second memory among it, might write past the marks.
const UNDERSTOOD: WasmFeatures = WasmFeatures::WASM2.union(WasmFeatures::EXTENDED_CONST);

/// What the rewritten module exports, in place of the names that the module itself chose.
pub(super) mod exports {
    pub(in super::super) const MEMORY: &str = "memory";
    pub(in super::super) const MARKS: &str = "marks";
    /// Asks the module for places for the texts of an event, one after the other, in one call from outside.
    pub(in super::super) const PLACES: &str = "places";
    pub(in super::super) const DESCRIBE: &str = "describe";
    pub(in super::super) const DESCRIBED: &str = "described";
    pub(in super::super) const VALIDATE: &str = "validate";

    /// The mutable global at this place among the mutable ones.
    pub(in super::super) fn global(place: usize) -> String {
        format!("global {place}")
    }
}

/// The module's own names of what the contract needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names<'a> {
    pub(super) memory: &'a str,
    pub(super) realloc: &'a str,
    pub(super) describe: &'a str,
    /// What tells the module that the answer of `describe` was read.
    pub(super) described: Option<&'a str>,
    pub(super) validate: &'a str,
}

/// A module that marks what it writes.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) bytes: Vec<u8>,
    /// Mutable globals, all of them exported and all of them numbers.
    pub(super) globals: usize,
}

/// Why a module cannot be rewritten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub(super) String);

impl Unfit {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// Rewrites `module`, a core module without imports.
pub(super) fn rewrite(module: &[u8], names: &Names<'_>) -> Result<Rewritten, Unfit> {
    let invalid = |error: wasmparser::Error| Unfit::new(format!("it is more than is understood here: {error}"));
    Validator::new_with_features(UNDERSTOOD).validate_all(module).map_err(invalid)?;
    let mut rewriter = Rewriter::survey(module, names)?;
    let globals = rewriter.globals.len();
    let mut rewritten = Module::new();
    rewriter.parse_core_module(&mut rewritten, Parser::new(0), module).map_err(|error| match error {
        Error::UserError(unfit) => unfit,
        error => Unfit::new(format!("it does not encode again: {error}")),
    })?;
    let bytes = rewritten.finish();
    // What became invalid by the rewriting, such as a reference to a function that only an export had declared, is rare,
    // and not worth more than this.
    Validator::new_with_features(UNDERSTOOD.union(WasmFeatures::MULTI_MEMORY)).validate_all(&bytes).map_err(invalid)?;
    Ok(Rewritten { bytes, globals })
}

/// What must be known of the whole module before its parts are written anew.
struct Rewriter {
    /// Parameters of each type.
    params: Vec<u32>,
    /// The type of each function.
    functions: Vec<u32>,
    /// The function whose body comes next.
    body: usize,
    /// The mutable globals.
    globals: Vec<u32>,
    /// What the rewritten module exports beside its globals, its marks and what is added to it.
    exports: Vec<(&'static str, ExportKind, u32)>,
    /// The function that gives memory.
    realloc: u32,
}

impl Rewriter {
    fn survey(module: &[u8], names: &Names<'_>) -> Result<Self, Unfit> {
        let mut own = Self {
            params: Vec::new(),
            functions: Vec::new(),
            body: 0,
            globals: Vec::new(),
            exports: Vec::new(),
            realloc: 0,
        };
        let mut exported = HashMap::new();
        let (mut memories, mut unfit) = (0, None);
        for payload in Parser::new(0).parse_all(module) {
            let read = match payload.map_err(|error| Unfit::new(error.to_string()))? {
                Payload::TypeSection(section) => section.into_iter_err_on_gc_types().try_for_each(|ty| {
                    own.params.push(u32::try_from(ty?.params().len()).expect("the validator bounds them"));
                    Ok(())
                }),
                Payload::FunctionSection(section) => section.into_iter().try_for_each(|ty| {
                    own.functions.push(ty?);
                    Ok(())
                }),
                Payload::MemorySection(section) => {
                    memories = section.count();
                    Ok(())
                }
                // The pool has a place for one table of each instance that stays.
                Payload::TableSection(section) if section.count() > 1 => {
                    unfit = Some("it has more than one table");
                    Ok(())
                }
                Payload::GlobalSection(section) => own.survey_globals(section, &mut unfit),
                Payload::ExportSection(section) => section.into_iter().try_for_each(|export| {
                    let export = export?;
                    exported.insert(export.name, (export.kind, export.index));
                    Ok(())
                }),
                Payload::ImportSection(_) => {
                    unfit = Some("it has imports");
                    Ok(())
                }
                Payload::StartSection { .. } => {
                    unfit = Some("it runs code when it starts");
                    Ok(())
                }
                _ => Ok(()),
            };
            read.map_err(|error: wasmparser::Error| Unfit::new(error.to_string()))?;
        }
        if let Some(why) = unfit {
            return Err(Unfit::new(why));
        }
        if memories != 1 {
            return Err(Unfit::new("it has no memory of its own"));
        }
        own.choose_exports(&exported, names)?;
        Ok(own)
    }

    fn survey_globals(
        &mut self,
        section: wasmparser::GlobalSectionReader<'_>,
        unfit: &mut Option<&'static str>,
    ) -> wasmparser::Result<()> {
        use wasmparser::ValType::{F32, F64, I32, I64};
        for (index, global) in (0..).zip(section) {
            let ty = global?.ty;
            if ty.mutable {
                self.globals.push(index);
                if !matches!(ty.content_type, I32 | I64 | F32 | F64) {
                    *unfit = Some("it has a mutable global that is no number");
                }
            }
        }
        if self.globals.len() > GLOBALS_MAX {
            *unfit = Some("it has more mutable globals than are worth setting back");
        }
        Ok(())
    }

    fn choose_exports(
        &mut self,
        exported: &HashMap<&str, (ExternalKind, u32)>,
        names: &Names<'_>,
    ) -> Result<(), Unfit> {
        let find = |name: &str, wanted: ExternalKind| match exported.get(name) {
            Some((kind, index)) if *kind == wanted => Ok(*index),
            _ => Err(Unfit::new(format!("it does not export `{name}` as it should"))),
        };
        self.realloc = find(names.realloc, ExternalKind::Func)?;
        let mut choose = |own: &'static str, name: &str, wanted: ExternalKind| {
            self.exports.push((own, ExportKind::from(wanted), find(name, wanted)?));
            Ok(())
        };
        choose(exports::MEMORY, names.memory, ExternalKind::Memory)?;
        choose(exports::DESCRIBE, names.describe, ExternalKind::Func)?;
        choose(exports::VALIDATE, names.validate, ExternalKind::Func)?;
        names.described.map_or(Ok(()), |name| choose(exports::DESCRIBED, name, ExternalKind::Func))
    }

    /// The function that stands for `memory.copy`, added after the module's own; the one for `memory.fill` follows it,
    /// and then the one that asks for places.
    fn copy_function(&self) -> u32 {
        u32::try_from(self.functions.len()).expect("the validator bounds them")
    }

    /// Writes one operator, with its mark if it writes to memory.
    fn operator(&mut self, code: &mut Vec<u8>, spare: &mut Spare, operator: Operator<'_>) -> Result<(), Error<Unfit>> {
        if let Some(why) = keeps_unseen(&operator) {
            return Err(Error::UserError(Unfit::new(why)));
        }
        match operator {
            Operator::MemoryCopy { .. } => Instruction::Call(self.copy_function()).encode(code),
            Operator::MemoryFill { .. } => Instruction::Call(self.copy_function() + 1).encode(code),
            operator => {
                if let Some((ty, offset)) = stored(&operator) {
                    mark(code, spare, ty, offset);
                }
                self.instruction(operator)?.encode(code);
            }
        }
        Ok(())
    }
}

impl Reencode for Rewriter {
    type Error = Unfit;

    /// Names and debug information are of no use to an engine that tells none of them.
    fn parse_custom_section(
        &mut self,
        _: &mut Module,
        _: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        Ok(())
    }

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        wasm_encoder::reencode::utils::parse_type_section(self, types, section)?;
        types.ty().function([ValType::I32; 3], []);
        types.ty().function([ValType::I32; TEXTS], [ValType::I32; TEXTS]);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        wasm_encoder::reencode::utils::parse_function_section(self, functions, section)?;
        let bulk = u32::try_from(self.params.len()).expect("the validator bounds them");
        functions.function(bulk).function(bulk).function(bulk + 1);
        Ok(())
    }

    fn parse_memory_section(
        &mut self,
        memories: &mut MemorySection,
        section: wasmparser::MemorySectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        wasm_encoder::reencode::utils::parse_memory_section(self, memories, section)?;
        let pages = (MARKS_BYTES >> 16) as u64;
        memories.memory(MemoryType {
            minimum: pages,
            maximum: Some(pages),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        section: &mut ExportSection,
        _: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        for (name, kind, index) in &self.exports {
            section.export(name, *kind, *index);
        }
        section.export(exports::MARKS, ExportKind::Memory, MARKS);
        section.export(exports::PLACES, ExportKind::Func, self.copy_function() + 2);
        for (place, index) in self.globals.iter().enumerate() {
            section.export(&exports::global(place), ExportKind::Global, *index);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        wasm_encoder::reencode::utils::parse_code_section(self, code, section)?;
        code.function(&bulk(&Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 }));
        code.function(&bulk(&Instruction::MemoryFill(0)));
        code.function(&places(self.realloc));
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error<Unfit>> {
        let ty = self.functions[self.body];
        self.body += 1;
        let mut locals = Vec::new();
        let mut next = self.params[ty as usize];
        for pair in body.get_locals_reader()? {
            let (count, ty) = pair?;
            locals.push((count, self.val_type(ty)?));
            next += count;
        }
        let mut spare = Spare { next, taken: Vec::new() };
        let mut instructions = Vec::new();
        for operator in body.get_operators_reader()? {
            self.operator(&mut instructions, &mut spare, operator?)?;
        }
        locals.extend(spare.taken.iter().map(|(_, ty, _)| (1, *ty)));
        let mut function = Function::new(locals);
        function.raw(instructions);
        code.function(&function);
        Ok(())
    }
}

/// The memory of marks: the second one.
const MARKS: u32 = 1;

/// What a local beyond the function's own is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Address,
    Value,
}

/// Locals beyond the function's own, each taken when it is first needed.
struct Spare {
    next: u32,
    taken: Vec<(Use, ValType, u32)>,
}

impl Spare {
    fn local(&mut self, for_what: Use, ty: ValType) -> u32 {
        let known = self.taken.iter().find(|(what, of, _)| (*what, *of) == (for_what, ty));
        known.map(|(.., index)| *index).unwrap_or_else(|| {
            self.taken.push((for_what, ty, self.next));
            self.next += 1;
            self.next - 1
        })
    }
}

/// The type and the offset of what an operator stores; `None` when it stores nothing.
fn stored(operator: &Operator<'_>) -> Option<(ValType, u64)> {
    use Operator as O;
    match operator {
        O::I32Store { memarg } | O::I32Store8 { memarg } | O::I32Store16 { memarg } => {
            Some((ValType::I32, memarg.offset))
        }
        O::I64Store { memarg } | O::I64Store8 { memarg } | O::I64Store16 { memarg } | O::I64Store32 { memarg } => {
            Some((ValType::I64, memarg.offset))
        }
        O::F32Store { memarg } => Some((ValType::F32, memarg.offset)),
        O::F64Store { memarg } => Some((ValType::F64, memarg.offset)),
        O::V128Store { memarg }
        | O::V128Store8Lane { memarg, .. }
        | O::V128Store16Lane { memarg, .. }
        | O::V128Store32Lane { memarg, .. }
        | O::V128Store64Lane { memarg, .. } => Some((ValType::V128, memarg.offset)),
        _ => None,
    }
}

/// Says of an operator that it changes what no mark can tell of: a table, or which segments are left.
fn keeps_unseen(operator: &Operator<'_>) -> Option<&'static str> {
    use Operator as O;
    match operator {
        O::TableSet { .. } | O::TableGrow { .. } | O::TableFill { .. } | O::TableCopy { .. } | O::TableInit { .. } => {
            Some("it changes a table")
        }
        O::MemoryInit { .. } | O::DataDrop { .. } | O::ElemDrop { .. } => Some("it uses segments at run time"),
        _ => None,
    }
}

/// Before a store: with the address and the value on the stack, marks the card in which the store begins. An address
/// that wraps around marks a wrong card, and then faults, and a faulted instance is never used again.
fn mark(code: &mut Vec<u8>, spare: &mut Spare, ty: ValType, offset: u64) {
    let (address, value) = (spare.local(Use::Address, ValType::I32), spare.local(Use::Value, ty));
    Instruction::LocalSet(value).encode(code);
    Instruction::LocalTee(address).encode(code);
    Instruction::LocalGet(address).encode(code);
    if offset != 0 {
        // The bits of an offset of 32 bits, whatever their sign.
        let offset = u32::try_from(offset).expect("the validator bounds it").cast_signed();
        Instruction::I32Const(offset).encode(code);
        Instruction::I32Add.encode(code);
    }
    mark_card(code);
    Instruction::LocalGet(value).encode(code);
}

/// Marks the card of the address on the stack.
fn mark_card(code: &mut Vec<u8>) {
    Instruction::I32Const(CARD_SHIFT.cast_signed()).encode(code);
    Instruction::I32ShrU.encode(code);
    Instruction::I32Const(1).encode(code);
    Instruction::I32Store8(MemArg { offset: 0, align: 0, memory_index: MARKS }).encode(code);
}

/// The body of a function that does what `operator` does with its three operands, of which the first is where it writes
/// and the last how many bytes, and then marks every card of that.
fn bulk(operator: &Instruction<'_>) -> Function {
    const START: u32 = 0;
    const LENGTH: u32 = 2;
    // The last byte, and the first and last card.
    const LAST: u32 = 3;
    let mut function = Function::new([(1, ValType::I32)]);
    let mut code = Vec::new();
    for operand in [START, 1, LENGTH] {
        Instruction::LocalGet(operand).encode(&mut code);
    }
    operator.encode(&mut code);
    for instruction in [
        Instruction::LocalGet(LENGTH),
        Instruction::I32Eqz,
        Instruction::If(BlockType::Empty),
        Instruction::Return,
        Instruction::End,
        Instruction::LocalGet(START),
        Instruction::LocalGet(LENGTH),
        Instruction::I32Add,
        Instruction::I32Const(1),
        Instruction::I32Sub,
        Instruction::I32Const(CARD_SHIFT.cast_signed()),
        Instruction::I32ShrU,
        Instruction::LocalTee(LAST),
        Instruction::LocalGet(START),
        Instruction::I32Const(CARD_SHIFT.cast_signed()),
        Instruction::I32ShrU,
        Instruction::LocalTee(START),
        Instruction::I32Sub,
        Instruction::I32Const(1),
        Instruction::I32Add,
        Instruction::LocalSet(LENGTH),
        Instruction::LocalGet(START),
        Instruction::I32Const(1),
        Instruction::I32Store8(MemArg { offset: 0, align: 0, memory_index: MARKS }),
        Instruction::LocalGet(LAST),
        Instruction::I32Const(1),
        Instruction::I32Store8(MemArg { offset: 0, align: 0, memory_index: MARKS }),
        // Most are short, and a fill in bulk is a call out of the module.
        Instruction::LocalGet(LENGTH),
        Instruction::I32Const(2),
        Instruction::I32GtU,
        Instruction::If(BlockType::Empty),
        Instruction::LocalGet(START),
        Instruction::I32Const(1),
        Instruction::LocalGet(LENGTH),
        Instruction::MemoryFill(MARKS),
        Instruction::End,
        Instruction::End,
    ] {
        instruction.encode(&mut code);
    }
    function.raw(code);
    function
}

/// The body of a function that takes the bytes of each text and gives the address of a place for it. A call from outside
/// costs more than all that `realloc` does.
fn places(realloc: u32) -> Function {
    let mut function = Function::new([]);
    for text in (0..).take(TEXTS) {
        // No former place, none of its bytes, and no alignment.
        for operand in [0, 0, 1] {
            function.instruction(&Instruction::I32Const(operand));
        }
        function.instruction(&Instruction::LocalGet(text)).instruction(&Instruction::Call(realloc));
    }
    function.instruction(&Instruction::End);
    function
}
