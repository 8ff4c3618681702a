//! Makes one core module of several that import from each other, in the order in which a component instantiates them.
//! It writes their types, functions, memories, tables, globals and segments one after the other, and replaces each
//! import by the item that it names. So a module of many parts can be handled like one of a single part: its writes can
//! be followed and its state taken. Bytes to bytes.

use std::borrow::Cow;
use std::collections::HashMap;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection, Encode as _, ExportKind, ExportSection,
    Function, FunctionSection, GlobalSection, Instruction, MemorySection, Module, StartSection, TableSection,
    TypeSection,
};
use wasmparser::{
    BinaryReader, CodeSectionReader, DataKind, DataSectionReader, ElementKind, ElementSectionReader, ExternalKind,
    FunctionSectionReader, GlobalSectionReader, MemorySectionReader, Parser, Payload, TableSectionReader, TypeRef,
    TypeSectionReader,
};

use super::core_module::{LAST_WORDS, Unfit};

/// Core modules that are made into one, as many as a component may have. Python's have forty.
const PARTS_MAX: usize = 64;

/// Bytes of all parts together. They bound how often a component may instantiate a module more than once.
const BYTES_MAX: usize = 128 << 20;

/// A core module, and the source of each of its imports.
pub(super) struct Part<'a> {
    pub(super) module: &'a [u8],
    /// By module and name of an import: the part that exports it, and the name there.
    pub(super) given: HashMap<(&'a str, &'a str), (usize, &'a str)>,
}

impl<'a> Part<'a> {
    /// The module and the name of each import.
    pub(super) fn imports(&self) -> Result<Vec<(&'a str, &'a str)>, Unfit> {
        Ok(Sections::read(self.module)?.imports.into_iter().map(|(module, name, _)| (module, name)).collect())
    }
}

/// The one module.
pub(super) struct Linked<'a> {
    pub(super) module: Cow<'a, [u8]>,
    /// The exports of each part, with their indices in the one module.
    exports: Vec<HashMap<&'a str, (ExternalKind, u32)>>,
}

impl Linked<'_> {
    /// The index of an export of a part.
    pub(super) fn index(&self, part: usize, name: &str, wanted: ExternalKind) -> Result<u32, Unfit> {
        match self.exports.get(part).and_then(|exports| exports.get(name)) {
            Some((kind, index)) if *kind == wanted => Ok(*index),
            _ => Err(Unfit::new(format!("it does not export `{name}` as it should"))),
        }
    }
}

/// Makes one module of `parts`. Each part imports only from those before it.
pub(super) fn link<'a>(parts: &[Part<'a>]) -> Result<Linked<'a>, Unfit> {
    if parts.len() > PARTS_MAX || parts.iter().map(|part| part.module.len()).sum::<usize>() > BYTES_MAX {
        return Err(Unfit::new("it is made of more core modules than can be made into one"));
    }
    let read: Vec<_> = parts.iter().map(|part| Sections::read(part.module)).collect::<Result<_, _>>()?;
    if let [only] = &*read
        && only.imports.is_empty()
    {
        let exports = only.exports.iter().map(|(name, kind, index)| (*name, (*kind, *index))).collect();
        return Ok(Linked { module: Cow::Borrowed(parts[0].module), exports: vec![exports] });
    }
    in_order(&read)?;
    let mut counts = Counts::default();
    let (mut spaces, mut exports) = (Vec::new(), Vec::<HashMap<_, _>>::new());
    for (part, sections) in parts.iter().zip(&read) {
        let space = Space::of(part, sections, &mut counts, &exports)?;
        let own = sections.exports.iter().map(|(name, kind, index)| Ok((*name, (*kind, space.index(*kind, *index)?))));
        exports.push(own.collect::<Result<_, Unfit>>()?);
        spaces.push(space);
    }
    let module = write(&read, &spaces, &counts).map_err(|error| match error {
        Error::UserError(unfit) => unfit,
        error => Unfit::new(format!("its core modules do not make one: {error}")),
    })?;
    Ok(Linked { module: Cow::Owned(module), exports })
}

/// In one module all segments are written before any start code runs. So no part may fill the memory or table of
/// another after the start code of a part has run: that code would else find other contents than in the component.
fn in_order(read: &[Sections<'_>]) -> Result<(), Unfit> {
    let mut started = false;
    for sections in read {
        if started && sections.fills_imported {
            return Err(Unfit::new("a core module of it fills what another one used when it started"));
        }
        started |= sections.start.is_some();
    }
    Ok(())
}

/// A core module's sections.
#[derive(Default)]
struct Sections<'a> {
    imports: Vec<(&'a str, &'a str, TypeRef)>,
    exports: Vec<(&'a str, ExternalKind, u32)>,
    types: Option<TypeSectionReader<'a>>,
    functions: Option<FunctionSectionReader<'a>>,
    tables: Option<TableSectionReader<'a>>,
    memories: Option<MemorySectionReader<'a>>,
    globals: Option<GlobalSectionReader<'a>>,
    start: Option<u32>,
    elements: Option<ElementSectionReader<'a>>,
    counts_data: bool,
    code: Option<CodeSectionReader<'a>>,
    data: Option<DataSectionReader<'a>>,
    /// Whether its segments go into a memory or table of another module.
    fills_imported: bool,
}

impl<'a> Sections<'a> {
    fn read(module: &'a [u8]) -> Result<Self, Unfit> {
        Self::parse(module).map_err(|error| Unfit::new(error.to_string()))?.checked()
    }

    fn parse(module: &'a [u8]) -> wasmparser::Result<Self> {
        let mut own = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        own.imports.push((import.module, import.name, import.ty));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        own.exports.push((export.name, export.kind, export.index));
                    }
                }
                Payload::TypeSection(section) => own.types = Some(section),
                Payload::FunctionSection(section) => own.functions = Some(section),
                Payload::TableSection(section) => own.tables = Some(section),
                Payload::MemorySection(section) => own.memories = Some(section),
                Payload::GlobalSection(section) => own.globals = Some(section),
                Payload::StartSection { func, .. } => own.start = Some(func),
                Payload::ElementSection(section) => own.elements = Some(section),
                Payload::DataCountSection { .. } => own.counts_data = true,
                Payload::CodeSectionStart { range, .. } => {
                    let bytes = module.get(range.clone()).unwrap_or_default();
                    own.code = Some(CodeSectionReader::new(BinaryReader::new(bytes, range.start))?);
                }
                Payload::DataSection(section) => own.data = Some(section),
                _ => {}
            }
        }
        own.fills_imported = own.fills_imported()?;
        Ok(own)
    }

    /// Refuses imports of exceptions, which this file does not handle.
    fn checked(self) -> Result<Self, Unfit> {
        let odd = |ty: &TypeRef| {
            !matches!(ty, TypeRef::Func(_) | TypeRef::Table(_) | TypeRef::Memory(_) | TypeRef::Global(_))
        };
        if self.imports.iter().any(|(_, _, ty)| odd(ty)) {
            return Err(Unfit::new("its core modules share what is not understood here"));
        }
        Ok(self)
    }

    fn fills_imported(&self) -> wasmparser::Result<bool> {
        let imported = |of: fn(&TypeRef) -> bool| self.imports.iter().filter(|(_, _, ty)| of(ty)).count();
        let (tables, memories) =
            (imported(|ty| matches!(ty, TypeRef::Table(_))), imported(|ty| matches!(ty, TypeRef::Memory(_))));
        for element in self.elements.iter().flat_map(|section| section.clone()) {
            if let ElementKind::Active { table_index, .. } = element?.kind
                && (table_index.unwrap_or(0) as usize) < tables
            {
                return Ok(true);
            }
        }
        for data in self.data.iter().flat_map(|section| section.clone()) {
            if let DataKind::Active { memory_index, .. } = data?.kind
                && (memory_index as usize) < memories
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Items of each kind that the one module has so far.
#[derive(Default)]
struct Counts {
    types: u32,
    functions: u32,
    tables: u32,
    memories: u32,
    globals: u32,
    elements: u32,
    data: u32,
}

/// The indices of a part's items in the one module.
struct Space {
    first_type: u32,
    first_element: u32,
    first_data: u32,
    functions: Vec<u32>,
    tables: Vec<u32>,
    memories: Vec<u32>,
    globals: Vec<u32>,
}

impl Space {
    /// Finds the imports of `part`, and counts the items that it adds.
    fn of(
        part: &Part<'_>,
        sections: &Sections<'_>,
        counts: &mut Counts,
        exports: &[HashMap<&str, (ExternalKind, u32)>],
    ) -> Result<Self, Unfit> {
        let mut own = Self {
            first_type: counts.types,
            first_element: counts.elements,
            first_data: counts.data,
            functions: Vec::new(),
            tables: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
        };
        for (module, name, ty) in &sections.imports {
            let (from, name) = part.given.get(&(*module, *name)).ok_or_else(absent)?;
            let (kind, index) = exports.get(*from).and_then(|exports| exports.get(name)).ok_or_else(absent)?;
            match (ty, kind) {
                (TypeRef::Func(_), ExternalKind::Func) => own.functions.push(*index),
                (TypeRef::Table(_), ExternalKind::Table) => own.tables.push(*index),
                (TypeRef::Memory(_), ExternalKind::Memory) => own.memories.push(*index),
                (TypeRef::Global(_), ExternalKind::Global) => own.globals.push(*index),
                _ => return Err(absent()),
            }
        }
        let add = |space: &mut Vec<u32>, count: &mut u32, more: u32| {
            space.extend(*count..*count + more);
            *count += more;
        };
        add(&mut own.functions, &mut counts.functions, sections.functions.as_ref().map_or(0, |it| it.count()));
        add(&mut own.tables, &mut counts.tables, sections.tables.as_ref().map_or(0, |it| it.count()));
        add(&mut own.memories, &mut counts.memories, sections.memories.as_ref().map_or(0, |it| it.count()));
        add(&mut own.globals, &mut counts.globals, sections.globals.as_ref().map_or(0, |it| it.count()));
        counts.types += types(sections)?;
        counts.elements += sections.elements.as_ref().map_or(0, |it| it.count());
        counts.data += sections.data.as_ref().map_or(0, |it| it.count());
        Ok(own)
    }

    fn index(&self, kind: ExternalKind, index: u32) -> Result<u32, Unfit> {
        let space = match kind {
            ExternalKind::Func => &self.functions,
            ExternalKind::Table => &self.tables,
            ExternalKind::Memory => &self.memories,
            ExternalKind::Global => &self.globals,
            _ => return Err(absent()),
        };
        space.get(index as usize).copied().ok_or_else(absent)
    }
}

/// Counts types. Each type of a group whose types refer to each other has an index of its own.
fn types(sections: &Sections<'_>) -> Result<u32, Unfit> {
    let mut count = 0;
    for group in sections.types.iter().flat_map(|section| section.clone()) {
        let group = group.map_err(|error| Unfit::new(error.to_string()))?;
        count += u32::try_from(group.types().len()).expect("a module has fewer types");
    }
    Ok(count)
}

fn absent() -> Unfit {
    Unfit::new("a core module of it imports what no other one exports")
}

/// Writes the items of one part with their indices in the one module.
struct Mapper<'a> {
    space: &'a Space,
    /// The first value of each global of the one module, since a constant may name no global but an imported one.
    begins: &'a mut Vec<Vec<u8>>,
}

impl Mapper<'_> {
    fn at(&self, kind: ExternalKind, index: u32) -> Result<u32, Error<Unfit>> {
        self.space.index(kind, index).map_err(Error::UserError)
    }

    fn constant(&mut self, expression: &wasmparser::ConstExpr<'_>) -> Result<Vec<u8>, Error<Unfit>> {
        let mut operators = expression.get_operators_reader();
        let mut bytes = Vec::new();
        while !operators.is_end_then_eof() {
            match operators.clone().read()? {
                wasmparser::Operator::GlobalGet { global_index } => {
                    operators.read()?;
                    let global = self.at(ExternalKind::Global, global_index)?;
                    bytes
                        .extend_from_slice(self.begins.get(global as usize).ok_or_else(|| Error::UserError(absent()))?);
                }
                _ => self.parse_instruction(&mut operators)?.encode(&mut bytes),
            }
        }
        Ok(bytes)
    }
}

impl Reencode for Mapper<'_> {
    type Error = Unfit;

    fn function_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        self.at(ExternalKind::Func, index)
    }

    fn table_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        self.at(ExternalKind::Table, index)
    }

    fn memory_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        self.at(ExternalKind::Memory, index)
    }

    fn global_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        self.at(ExternalKind::Global, index)
    }

    fn type_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        Ok(self.space.first_type + index)
    }

    fn element_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        Ok(self.space.first_element + index)
    }

    fn data_index(&mut self, index: u32) -> Result<u32, Error<Unfit>> {
        Ok(self.space.first_data + index)
    }

    fn const_expr(&mut self, expression: wasmparser::ConstExpr<'_>) -> Result<ConstExpr, Error<Unfit>> {
        self.constant(&expression).map(ConstExpr::raw)
    }

    fn parse_global(
        &mut self,
        globals: &mut GlobalSection,
        global: wasmparser::Global<'_>,
    ) -> Result<(), Error<Unfit>> {
        let begins = self.constant(&global.init_expr)?;
        globals.global(self.global_type(global.ty)?, &ConstExpr::raw(begins.iter().copied()));
        self.begins.push(begins);
        Ok(())
    }
}

/// The global that points to the text of a panic, of the first part that exports one.
fn last_words(read: &[Sections<'_>], spaces: &[Space]) -> Option<Result<u32, Unfit>> {
    read.iter().zip(spaces).find_map(|(sections, space)| {
        let is_it = |(name, kind, _): &&(&str, ExternalKind, u32)| *name == LAST_WORDS && *kind == ExternalKind::Global;
        sections.exports.iter().find(is_it).map(|(_, kind, index)| space.index(*kind, *index))
    })
}

/// Writes the sections in the order that a module has.
fn write(read: &[Sections<'_>], spaces: &[Space], counts: &Counts) -> Result<Vec<u8>, Error<Unfit>> {
    let mut begins = Vec::new();
    let mut module = Module::new();
    macro_rules! section {
        ($new:expr, $from:ident, $write:path) => {{
            let mut section = $new;
            for (sections, space) in read.iter().zip(spaces) {
                if let Some(from) = sections.$from.clone() {
                    $write(&mut Mapper { space, begins: &mut begins }, &mut section, from)?;
                }
            }
            section
        }};
    }
    let mut starts = Vec::new();
    for (sections, space) in read.iter().zip(spaces) {
        if let Some(start) = sections.start {
            starts.push(space.index(ExternalKind::Func, start).map_err(Error::UserError)?);
        }
    }
    let mut types = section!(TypeSection::new(), types, utils::parse_type_section);
    types.ty().function([], []);
    let mut functions = section!(FunctionSection::new(), functions, utils::parse_function_section);
    functions.function(counts.types);
    module.section(&types).section(&functions);
    module.section(&section!(TableSection::new(), tables, utils::parse_table_section));
    module.section(&section!(MemorySection::new(), memories, utils::parse_memory_section));
    module.section(&section!(GlobalSection::new(), globals, utils::parse_global_section));
    // Code may take a reference to an exported function, so all of them stay exported.
    let mut exports = ExportSection::new();
    if let Some(global) = last_words(read, spaces) {
        exports.export(LAST_WORDS, ExportKind::Global, global.map_err(Error::UserError)?);
    }
    for (part, (sections, space)) in read.iter().zip(spaces).enumerate() {
        for (name, kind, index) in sections.exports.iter().filter(|(_, kind, _)| *kind == ExternalKind::Func) {
            let index = space.index(*kind, *index).map_err(Error::UserError)?;
            exports.export(&format!("{part} {name}"), ExportKind::Func, index);
        }
    }
    module.section(&exports);
    if !starts.is_empty() {
        module.section(&StartSection { function_index: counts.functions });
    }
    module.section(&section!(ElementSection::new(), elements, utils::parse_element_section));
    if read.iter().any(|sections| sections.counts_data) {
        module.section(&DataCountSection { count: counts.data });
    }
    let mut code = section!(CodeSection::new(), code, utils::parse_code_section);
    let mut start = Function::new([]);
    for function in starts {
        start.instruction(&Instruction::Call(function));
    }
    code.function(start.instruction(&Instruction::End));
    module.section(&code);
    module.section(&section!(DataSection::new(), data, utils::parse_data_section));
    Ok(module.finish())
}
