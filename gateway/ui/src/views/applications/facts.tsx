// All fields of an application.
import type { ComponentChild } from "preact";
import { legible, Time } from "../../parts/words";
import { type Application, count, knownBy, rateInWords, SCOPES } from "./words";

/** Items of a list that are drawn before it is opened. */
const FIRST = 12;

export function Facts({ of }: { of: Application }) {
  const sends = of.scopes.some((scope) => ["ingest", "admin"].includes(scope));
  const reads = of.scopes.some((scope) => ["read", "raw"].includes(scope));
  return (
    <dl class="fields">
      {of.note !== "" && (
        <Fact title="Note">
          <bdi>{of.note}</bdi>
        </Fact>
      )}
      <Fact title="It may">
        {of.scopes.length === 0 ? (
          "do nothing"
        ) : (
          <ul>
            {SCOPES.filter(({ scope }) => of.scopes.includes(scope)).map(({ scope, means }) => (
              <li key={scope}>
                <code>{scope}</code> <span class="quiet">{means}</span>
              </li>
            ))}
          </ul>
        )}
      </Fact>
      <Fact title="Known by">{knownBy(of)}</Fact>
      {of.networks.length > 0 && (
        <Fact title="Networks">
          <Many of={of.networks} />
        </Fact>
      )}
      {of.certificates.length > 0 && (
        <Fact title="Certificates">
          <Many of={of.certificates} />
        </Fact>
      )}
      <Fact title="Rate">
        {rateInWords(of.events_per_second, of.burst_events)}
        {of.events_per_second !== null && <span class="quiet">, at each gateway</span>}
      </Fact>
      {(sends || of.event_types.length > 0) && <Fact title="Sends">{of.event_types.length === 0 ? "all event types" : <Many of={of.event_types} />}</Fact>}
      {(reads || of.read_event_types.length > 0) && <Fact title="Reads">{of.read_event_types.length === 0 ? "all event types" : <Many of={of.read_event_types} />}</Fact>}
      {(reads || of.read_applications.length > 0) && (
        <Fact title="Reads from">{of.read_applications.length === 0 ? "all applications" : <Many of={of.read_applications} />}</Fact>
      )}
      {(of.scopes.includes("ship") || of.ship_event_types.length > 0) && (
        <Fact title="Pushes">{of.ship_event_types.length === 0 ? "modules of all event types" : <Many of={of.ship_event_types} />}</Fact>
      )}
      <Fact title="Added">
        <Time at={of.created_at} />
      </Fact>
      {of.revoked_at !== null && (
        <Fact title="Revoked">
          <Time at={of.revoked_at} />
        </Fact>
      )}
    </dl>
  );
}

function Fact({ title, children }: { title: string; children: ComponentChild }) {
  return (
    <>
      <dt>{title}</dt>
      <dd>{children}</dd>
    </>
  );
}

function Many({ of }: { of: readonly string[] }) {
  const rest = of.slice(FIRST);
  return (
    <>
      <Names of={of.slice(0, FIRST)} />
      {rest.length > 0 && (
        <details>
          <summary>{count(rest.length, "more", "more")}</summary>
          <div class="scroll" tabIndex={0} role="region" aria-label="The others">
            <Names of={rest} />
          </div>
        </details>
      )}
    </>
  );
}

function Names({ of }: { of: readonly string[] }) {
  return (
    <ul class="names">
      {of.map((one) => (
        <li key={one}>
          <bdi>{legible(one)}</bdi>
        </li>
      ))}
    </ul>
  );
}
