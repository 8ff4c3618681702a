// Begins: finds out who is signed in, and shows the view of the address.
import { render } from "preact";
import "./style.css";
import { begin } from "./session";
import { Shell } from "./shell";

const place = document.getElementById("app");
if (place === null) throw new Error("the page has no place for the panel");
render(<Shell />, place);
void begin();
