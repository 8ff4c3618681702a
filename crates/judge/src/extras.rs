//! The functions of version 1.1.0 of the contract, which a module may export beside the two that every validator has:
//! `redact`, `examples` and `validate-at`. For these calls the module is kept as a component, and each call gets an
//! instance of its own, in the state in which `describe` left it. `world.rs` reads from the component's type which of
//! them it exports.

use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::{Component, ComponentNamedList, ComponentType, InstancePre, Lift, Linker, Lower, TypedFunc};

use super::contract::{Broken, GuestEvent, broken, for_describing, to_contract, unstarted};
use super::contract::{Description, Event, Expectation, Verdict as GuestVerdict};
use super::engine::{Meter, Sandbox, code_bytes, output_bytes_max};
use super::finished::Finished;
use super::settings::Limits;
use super::world::Offers;

/// An example as `examples` returns it.
#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Example2 {
    pub(super) title: String,
    pub(super) name: Option<String>,
    pub(super) timestamp: Option<i64>,
    pub(super) application: Option<String>,
    pub(super) data: String,
    pub(super) expect: Expectation,
    pub(super) codes: Vec<String>,
}

/// A module that exports some of these functions.
pub(super) struct Extras {
    pre: InstancePre<Meter>,
    offers: Offers,
    wasm_bytes: usize,
}

/// Such a module as data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BuiltExtras {
    code: Finished,
    offers: Offers,
    /// Bytes of the component before it was compiled.
    wasm_bytes: usize,
}

impl Extras {
    /// Compiles a component that exports `offers`.
    pub(super) fn compile(sandbox: &Sandbox, component: &[u8], offers: Offers) -> wasmtime::Result<Self> {
        Self::of(sandbox, &Component::from_binary(&sandbox.engine, component)?, offers, component.len())
    }

    fn of(sandbox: &Sandbox, component: &Component, offers: Offers, wasm_bytes: usize) -> wasmtime::Result<Self> {
        component.initialize_copy_on_write_image()?;
        Ok(Self { pre: Linker::new(&sandbox.engine).instantiate_pre(component)?, offers, wasm_bytes })
    }

    /// Bytes that it takes between calls: its code.
    pub(super) fn memory_bytes(&self) -> usize {
        let component = self.pre.component();
        let memories = component.resources_required().map_or(1, |resources| resources.num_memories as usize);
        code_bytes(&component.image_range(), self.wasm_bytes, memories)
    }

    /// The module as data.
    pub(super) fn built(&self) -> wasmtime::Result<BuiltExtras> {
        Ok(BuiltExtras {
            code: Finished::of_component(self.pre.component())?,
            offers: self.offers,
            wasm_bytes: self.wasm_bytes,
        })
    }

    /// Opens what [`Extras::built`] returned.
    pub(super) fn open(sandbox: &Sandbox, built: &BuiltExtras) -> wasmtime::Result<Self> {
        Self::of(sandbox, &built.code.component(&sandbox.engine)?, built.offers, built.wasm_bytes)
    }

    pub(super) fn offers(&self) -> Offers {
        self.offers
    }

    /// Calls `redact`. The caller checks the answer.
    pub(super) fn redact(&self, sandbox: &Sandbox, limits: &Limits, data: &str) -> Result<String, Broken> {
        self.call::<(&str,), String>(sandbox, limits, limits, "redact", (data,))
    }

    /// Calls `examples`.
    pub(super) fn examples(&self, sandbox: &Sandbox, limits: &Limits) -> Result<Vec<Example2>, Broken> {
        self.call::<(), Vec<Example2>>(sandbox, limits, &for_describing(limits), "examples", ())
    }

    /// Calls `validate-at` with the event and the time of its receipt. The caller checks the verdict.
    pub(super) fn validate_at(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
    ) -> Result<GuestVerdict, Broken> {
        let parameters = (to_contract(event), event.received_at_us);
        self.call::<(Event<'_>, i64), GuestVerdict>(sandbox, limits, limits, "validate-at", parameters)
    }

    fn call<P, R>(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        of_answer: &Limits,
        name: &str,
        parameters: P,
    ) -> Result<R, Broken>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentType + Lift + Send + Sync + 'static,
        (R,): ComponentNamedList + Lift,
    {
        let mut store = sandbox.store(of_answer);
        let instance = self.pre.instantiate(&mut store).map_err(|error| unstarted(&error, &store))?;
        store.set_hostcall_fuel(output_bytes_max(&for_describing(limits)));
        let described: Result<(Description,), _> = function(&instance, &mut store, "describe", ());
        described.map_err(|error| broken(&error, &store))?;
        store.set_hostcall_fuel(output_bytes_max(of_answer));
        let answer: Result<(R,), _> = function(&instance, &mut store, name, parameters);
        answer.map(|(answer,)| answer).map_err(|error| broken(&error, &store))
    }
}

fn function<P, R>(
    instance: &wasmtime::component::Instance,
    store: &mut Store<Meter>,
    name: &str,
    parameters: P,
) -> wasmtime::Result<R>
where
    P: ComponentNamedList + Lower + Send + Sync,
    R: ComponentNamedList + Lift + Send + Sync + 'static,
{
    let function: TypedFunc<P, R> = instance.get_typed_func(&mut *store, name)?;
    function.call(&mut *store, parameters)
}
