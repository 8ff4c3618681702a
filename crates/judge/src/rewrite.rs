//! Rewrites a validator's core module so that the gateway can reach all of its state: its memories, its mutable
//! globals, and its start code, which then runs once while the module is loaded. To set an instance back after an
//! event, the gateway must know what the event wrote. So every write to memory also marks its card, in a memory of
//! marks that the module itself cannot name. Bytes to bytes. A module with state that is in neither place is unfit.

use std::borrow::Cow;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    BlockType, CodeSection, Encode as _, ExportKind, ExportSection, Function, FunctionSection, Instruction, MemArg,
    MemorySection, MemoryType, Module, RawSection, TypeSection, ValType,
};
use wasmparser::{ExternalKind, FunctionBody, Operator, Parser, Payload, Validator, WasmFeatures};

use super::core_module::{Call, Core, LAST_WORDS, Lift, Unfit};

/// The bytes of a card are two to this power. Small cards are cheap to copy back, large ones cheap to search.
/// `benches/judging.rs` measured it.
pub(super) const CARD_SHIFT: u32 = 9;

/// Bytes of a card. A store may reach at most [`STORE_REACH`] bytes beyond the card that it marks.
pub(super) const CARD_BYTES: usize = 1 << CARD_SHIFT;

/// Bytes by which the widest store, of 16 bytes, may reach beyond the card in which it begins.
pub(super) const STORE_REACH: usize = 15;

/// Bytes of the marks: one for each card of 4 GiB, so that every address has a mark. Only the marks that are touched
/// take memory.
pub(super) const MARKS_BYTES: usize = 1 << (32 - CARD_SHIFT);

/// Mutable globals of a module. Setting each after an event takes some nanoseconds. Compilers make one or two; those of
/// languages that link at run time make some hundred.
const GLOBALS_MAX: usize = 2_000;

/// Tables and memories of a module, marks included. The engine's pool has places for as many.
const TABLES_MAX: u32 = 4;
const MEMORIES_MAX: u32 = 4;

/// The features of a module whose writes can be followed. Others, such as threads and a second memory, might write past
/// the marks.
const UNDERSTOOD: WasmFeatures = WasmFeatures::WASM2.union(WasmFeatures::EXTENDED_CONST);

/// The exports of the rewritten module. They replace the names that the module itself chose.
pub(super) mod exports {
    use super::super::core_module::Call;

    pub(in super::super) const MARKS: &str = "marks";
    /// The code that the module had for its start.
    pub(in super::super) const START: &str = "start";

    /// The memory at this place. Texts pass through the first.
    pub(in super::super) fn memory(place: usize) -> String {
        format!("memory {place}")
    }

    /// The mutable global at this place among the mutable ones.
    pub(in super::super) fn global(place: usize) -> String {
        format!("global {place}")
    }

    /// A function of the contract.
    pub(in super::super) fn call(call: Call) -> String {
        call.name().to_owned()
    }

    /// The function that allocates room for the texts of this call.
    pub(in super::super) fn realloc(call: Call) -> String {
        format!("{} realloc", call.name())
    }

    /// The function to call once the answer is read.
    pub(in super::super) fn post_return(call: Call) -> String {
        format!("{} post-return", call.name())
    }

    /// A function that the module itself exported. It stays exported, since code may take references only to such
    /// functions.
    pub(super) fn own(index: u32) -> String {
        format!("own {index}")
    }
}

/// Rewrites a core module so that its state can be reached and its writes leave marks.
pub(super) fn follow(core: &Core<'_>) -> Result<Vec<u8>, Unfit> {
    let invalid = |error: wasmparser::Error| Unfit::new(format!("it is more than is understood here: {error}"));
    Validator::new_with_features(UNDERSTOOD).validate_all(&core.module).map_err(invalid)?;
    let bytes = rewrite(core, true)?;
    // Rewriting may make a module invalid, such as by a function that becomes too long. That is rare, so the message is
    // the same.
    Validator::new_with_features(UNDERSTOOD.union(WasmFeatures::MULTI_MEMORY)).validate_all(&bytes).map_err(invalid)?;
    Ok(bytes)
}

/// Rewrites a core module so that its state can be reached.
pub(super) fn expose(core: &Core<'_>) -> Result<Vec<u8>, Unfit> {
    rewrite(core, false)
}

fn rewrite(core: &Core<'_>, follows: bool) -> Result<Vec<u8>, Unfit> {
    let (module, start) = without_start(&core.module)?;
    let mut rewriter = Rewriter::survey(&module, &core.calls, follows)?;
    rewriter.exports.extend(start.map(|start| (exports::START.to_owned(), ExportKind::Func, start)));
    let mut rewritten = Module::new();
    rewriter.parse_core_module(&mut rewritten, Parser::new(0), &module).map_err(|error| match error {
        Error::UserError(unfit) => unfit,
        error => Unfit::new(format!("it does not encode again: {error}")),
    })?;
    Ok(rewritten.finish())
}

/// Returns a module without its start code, and the index of that function.
fn without_start(module: &[u8]) -> Result<(Cow<'_, [u8]>, Option<u32>), Unfit> {
    let broken = |error: wasmparser::Error| Unfit::new(error.to_string());
    let mut start = None;
    let mut sections = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(broken)?;
        match payload.as_section() {
            _ if matches!(payload, Payload::CodeSectionEntry(_)) => {}
            Some((id, range)) => {
                if let Payload::StartSection { func, .. } = payload {
                    start = Some(func);
                } else if id != CUSTOM {
                    let data = module.get(range).ok_or_else(|| Unfit::new("it is cut short"))?;
                    sections.section(&RawSection { id, data });
                }
            }
            None => {}
        }
    }
    Ok(if start.is_none() { (Cow::Borrowed(module), None) } else { (Cow::Owned(sections.finish()), start) })
}

/// Sections that have only names and debug information. The engine shows none of them.
const CUSTOM: u8 = 0;

/// The facts about the whole module that writing its parts needs.
struct Rewriter {
    follows: bool,
    /// The number of parameters of each type.
    params: Vec<u32>,
    /// The type of each function.
    functions: Vec<u32>,
    /// The index of the function whose body comes next.
    body: usize,
    memories: u32,
    /// The indices of the mutable globals.
    globals: Vec<u32>,
    /// The exports of the rewritten module, without its globals, its marks and the added functions.
    exports: Vec<(String, ExportKind, u32)>,
}

impl Rewriter {
    fn survey(module: &[u8], calls: &[(Call, Lift)], follows: bool) -> Result<Self, Unfit> {
        let mut own = Self {
            follows,
            params: Vec::new(),
            functions: Vec::new(),
            body: 0,
            memories: 0,
            globals: Vec::new(),
            exports: Vec::new(),
        };
        let mut unfit = None;
        for payload in Parser::new(0).parse_all(module) {
            let read = match payload.map_err(|error| Unfit::new(error.to_string()))? {
                Payload::TypeSection(section) if follows => section.into_iter_err_on_gc_types().try_for_each(|ty| {
                    own.params.push(u32::try_from(ty?.params().len()).expect("the validator bounds them"));
                    Ok(())
                }),
                Payload::FunctionSection(section) => section.into_iter().try_for_each(|ty| {
                    own.functions.push(ty?);
                    Ok(())
                }),
                Payload::MemorySection(section) => {
                    own.memories = section.count();
                    Ok(())
                }
                Payload::TableSection(section) if section.count() > TABLES_MAX => {
                    unfit = Some("it has more tables than one module may have");
                    Ok(())
                }
                Payload::GlobalSection(section) => own.survey_globals(section, &mut unfit),
                Payload::ExportSection(section) => section.into_iter().try_for_each(|export| {
                    let export = export?;
                    match export.kind {
                        ExternalKind::Func => {
                            own.exports.push((exports::own(export.index), ExportKind::Func, export.index));
                        }
                        ExternalKind::Global if export.name == LAST_WORDS => {
                            own.exports.push((LAST_WORDS.to_owned(), ExportKind::Global, export.index));
                        }
                        _ => {}
                    }
                    Ok(())
                }),
                // Some tools leave an empty section.
                Payload::ImportSection(section) if section.count() > 0 => {
                    unfit = Some("it has imports");
                    Ok(())
                }
                _ => Ok(()),
            };
            read.map_err(|error: wasmparser::Error| Unfit::new(error.to_string()))?;
        }
        if let Some(why) = unfit {
            return Err(Unfit::new(why));
        }
        own.exports.sort_by(|one, other| (one.2, &one.0).cmp(&(other.2, &other.0)));
        own.exports.dedup();
        own.choose_exports(calls)?;
        Ok(own)
    }

    fn survey_globals(
        &mut self,
        section: wasmparser::GlobalSectionReader<'_>,
        unfit: &mut Option<&'static str>,
    ) -> wasmparser::Result<()> {
        use wasmparser::ValType::{F32, F64, I32, I64, V128};
        for (index, global) in (0..).zip(section) {
            let ty = global?.ty;
            if ty.mutable {
                self.globals.push(index);
                if !matches!(ty.content_type, I32 | I64 | F32 | F64 | V128) {
                    *unfit = Some("it has a mutable global that is no number");
                }
            }
        }
        if self.globals.len() > GLOBALS_MAX {
            *unfit = Some("it has more mutable globals than are worth setting");
        }
        Ok(())
    }

    fn choose_exports(&mut self, calls: &[(Call, Lift)]) -> Result<(), Unfit> {
        let (_, first) = calls.first().ok_or_else(|| Unfit::new("it lacks a function that the contract needs"))?;
        if self.memories == 0 {
            return Err(Unfit::new("it has no memory of its own"));
        }
        if self.memories + u32::from(self.follows) > MEMORIES_MAX {
            return Err(Unfit::new("it has more memories than one module may have"));
        }
        let others = (0..self.memories).filter(|memory| *memory != first.memory);
        for (place, memory) in [first.memory].into_iter().chain(others).enumerate() {
            self.exports.push((exports::memory(place), ExportKind::Memory, memory));
        }
        for (call, lift) in calls {
            let functions = [
                (exports::call(*call), Some(lift.function)),
                (exports::realloc(*call), lift.realloc),
                (exports::post_return(*call), lift.post_return),
            ];
            for (name, index) in functions {
                self.exports.extend(index.map(|index| (name, ExportKind::Func, index)));
            }
        }
        Ok(())
    }

    /// The function that replaces `memory.copy`. It comes after the module's own functions; the one for `memory.fill`
    /// follows it.
    fn copy_function(&self) -> u32 {
        u32::try_from(self.functions.len()).expect("the validator bounds them")
    }

    /// Writes one operator. If it writes to memory, it writes a mark before it.
    fn operator(&mut self, code: &mut Vec<u8>, spare: &mut Spare, operator: Operator<'_>) -> Result<(), Error<Unfit>> {
        if let Some(why) = keeps_unseen(&operator) {
            return Err(Error::UserError(Unfit::new(why)));
        }
        match operator {
            Operator::MemoryInit { .. } => return Err(Error::UserError(Unfit::new("it uses segments at run time"))),
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

    /// Drops names and debug information, since the engine shows none of them.
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
        if self.follows {
            types.ty().function([ValType::I32; 3], []);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        wasm_encoder::reencode::utils::parse_function_section(self, functions, section)?;
        if self.follows {
            let bulk = u32::try_from(self.params.len()).expect("the validator bounds them");
            functions.function(bulk).function(bulk);
        }
        Ok(())
    }

    fn parse_memory_section(
        &mut self,
        memories: &mut MemorySection,
        section: wasmparser::MemorySectionReader<'_>,
    ) -> Result<(), Error<Unfit>> {
        wasm_encoder::reencode::utils::parse_memory_section(self, memories, section)?;
        if self.follows {
            let pages = (MARKS_BYTES >> 16) as u64;
            memories.memory(MemoryType {
                minimum: pages,
                maximum: Some(pages),
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
        }
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
        if self.follows {
            section.export(exports::MARKS, ExportKind::Memory, MARKS);
        }
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
        if self.follows {
            code.function(&bulk(&Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 }));
            code.function(&bulk(&Instruction::MemoryFill(0)));
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error<Unfit>> {
        if !self.follows {
            for operator in body.get_operators_reader()? {
                if let Some(why) = keeps_unseen(&operator?) {
                    return Err(Error::UserError(Unfit::new(why)));
                }
            }
            return wasm_encoder::reencode::utils::parse_function_body(self, code, body);
        }
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

/// The index of the memory of marks: the second one.
const MARKS: u32 = 1;

/// The use of a local that is added to a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Address,
    Value,
}

/// The locals that are added to a function. Each is added when it is first needed.
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

/// The type and the offset of an operator's store; `None` if it stores nothing.
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

/// Why marks cannot follow this operator: it changes a table, or drops segments.
fn keeps_unseen(operator: &Operator<'_>) -> Option<&'static str> {
    use Operator as O;
    match operator {
        O::TableSet { .. } | O::TableGrow { .. } | O::TableFill { .. } | O::TableCopy { .. } | O::TableInit { .. } => {
            Some("it changes a table")
        }
        O::DataDrop { .. } | O::ElemDrop { .. } => Some("it drops segments at run time"),
        _ => None,
    }
}

/// Writes the code before a store, when its address and value are on the stack. It marks the card in which the store
/// begins. An address that wraps around marks a wrong card; but then the store faults, and a faulted instance is never
/// used again.
fn mark(code: &mut Vec<u8>, spare: &mut Spare, ty: ValType, offset: u64) {
    let (address, value) = (spare.local(Use::Address, ValType::I32), spare.local(Use::Value, ty));
    Instruction::LocalSet(value).encode(code);
    Instruction::LocalTee(address).encode(code);
    Instruction::LocalGet(address).encode(code);
    if offset != 0 {
        // Keeps the bits of an offset of 32 bits; the sign has no meaning.
        let offset = u32::try_from(offset).expect("the validator bounds it").cast_signed();
        Instruction::I32Const(offset).encode(code);
        Instruction::I32Add.encode(code);
    }
    mark_card(code);
    Instruction::LocalGet(value).encode(code);
}

/// Writes the code that marks the card of the address on the stack.
fn mark_card(code: &mut Vec<u8>) {
    Instruction::I32Const(CARD_SHIFT.cast_signed()).encode(code);
    Instruction::I32ShrU.encode(code);
    Instruction::I32Const(1).encode(code);
    Instruction::I32Store8(MemArg { offset: 0, align: 0, memory_index: MARKS }).encode(code);
}

/// The body of a function that does the work of `operator` and then marks every card that this wrote to. It has three
/// operands: the first is the address of the write, the last the number of bytes.
fn bulk(operator: &Instruction<'_>) -> Function {
    const START: u32 = 0;
    const LENGTH: u32 = 2;
    // The local for the last card. `START` becomes the first card, and `LENGTH` the number of cards.
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
        // Most writes reach few cards, and a fill in bulk calls out of the module.
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
