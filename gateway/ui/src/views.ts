// The views of the panel. One row each: its place in the navigation, what it needs, and what shows it. A row without
// `show` is not built yet, and is offered nowhere.
import { Activity, AppWindow, Boxes, History, type IconNode, Radio, Search, Server, TriangleAlert } from "lucide";
import type { ComponentType } from "preact";
import type { Filters } from "./address";
import type { Scope } from "./session";
import { AddApplication } from "./views/add-application";
import { ApplicationView } from "./views/application";
import { Applications } from "./views/applications";
import { Audit } from "./views/audit";
import { EventView } from "./views/event";
import { Explore } from "./views/explore";
import { Fleet } from "./views/fleet";
import { GenerationView } from "./views/generation";
import { JobView } from "./views/job";
import { LetterView } from "./views/letter";
import { Live } from "./views/live";
import { Overview } from "./views/overview";
import { Refused } from "./views/refused";
import { ValidatorView } from "./views/validator";
import { Validators } from "./views/validators";

export interface View {
  id: string;
  title: string;
  /** In the navigation with this icon; null for the page of one thing, which other views lead to. */
  icon: IconNode | null;
  scope: Scope;
  /** The view of the navigation that leads to this page of one thing. */
  under?: string;
  show?: ComponentType<{ filters: Filters }>;
}

export const VIEWS: readonly View[] = [
  { id: "overview", title: "Overview", icon: Activity, scope: "read", show: Overview },
  { id: "live", title: "Live", icon: Radio, scope: "read", show: Live },
  { id: "explore", title: "Explore", icon: Search, scope: "read", show: Explore },
  { id: "refused", title: "Refused", icon: TriangleAlert, scope: "read", show: Refused },
  { id: "validators", title: "Validators", icon: Boxes, scope: "read", show: Validators },
  { id: "applications", title: "Applications", icon: AppWindow, scope: "admin", show: Applications },
  { id: "fleet", title: "Fleet", icon: Server, scope: "read", show: Fleet },
  { id: "audit", title: "Audit", icon: History, scope: "admin", show: Audit },
  { id: "event", title: "Event", icon: null, scope: "read", under: "explore", show: EventView },
  { id: "letter", title: "Refused event", icon: null, scope: "read", under: "refused", show: LetterView },
  { id: "validator", title: "Validator", icon: null, scope: "read", under: "validators", show: ValidatorView },
  { id: "application", title: "Application", icon: null, scope: "admin", under: "applications", show: ApplicationView },
  { id: "add-application", title: "Add an application", icon: null, scope: "admin", under: "applications", show: AddApplication },
  { id: "generation", title: "Generation", icon: null, scope: "read", under: "fleet", show: GenerationView },
  { id: "job", title: "Job", icon: null, scope: "admin", under: "fleet", show: JobView },
];
