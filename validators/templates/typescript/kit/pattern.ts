// A small language of patterns for whole texts, the same as in the Rust kit. A pattern is compiled while the validator is built,
// so that a wrong one does not build; and matching takes time in proportion to the length of the text, whatever the sender
// wrote. JavaScript's own regular expressions take 2^n steps for some texts, which a sender would find.

/** Steps of a compiled pattern. Counted repetitions are written out. */
const STEPS_MAX = 128;

/** States that are kept at a time. Each is made once a text asks for it. */
const STATES_MAX = 500;

type Step =
  | { kind: "takes"; takes: (character: number) => boolean }
  | { kind: "split"; to: readonly [number, number] }
  | { kind: "jump"; to: readonly [number] }
  | { kind: "end" };

/** Steps that may come next, and what follows each character that a text has asked about. */
interface State {
  readonly steps: readonly number[];
  readonly isEnd: boolean;
  readonly ascii: (State | undefined)[];
}

/**
 * A pattern that whole texts match or do not: characters, `.`, `[A-Z0-9_]`, `[^,]`, `\d` `\w` `\s` `\D` `\W` `\S`, groups,
 * `|`, and `?` `*` `+` `{3}` `{2,}` `{2,5}`. `^` at the start and `$` at the end change nothing. There is nothing else: no
 * looking ahead, no references. A wrong one throws.
 */
export class Pattern {
  readonly text: string;
  private readonly steps: readonly Step[];
  /** Characters of the longest text that matches. */
  private readonly lengthMax: number;
  private states = new Map<string, State>();
  private start: State;

  constructor(text: string) {
    const compiler = new Compiler(text);
    this.text = text;
    this.steps = compiler.compile();
    this.lengthMax = compiler.isEndless ? Number.POSITIVE_INFINITY : STEPS_MAX * 2;
    this.start = this.stateOf([0]);
  }

  /** Whether the whole of a text matches. */
  matches(text: string): boolean {
    // A text has no more code units than twice its characters, each of which takes a step.
    if (text.length > this.lengthMax) return false;
    let state = this.start;
    for (let at = 0; at < text.length; at += 1) {
      const unit = text.charCodeAt(at);
      if (unit < 128) {
        state = state.ascii[unit] ?? this.after(state, unit);
      } else {
        const character = text.codePointAt(at) as number;
        if (character > 0xffff) at += 1;
        state = this.stateOf(this.taken(state, character));
      }
      if (state.steps.length === 0) return false;
    }
    return state.isEnd;
  }

  /** What follows an ASCII character, which is kept for the next one. */
  private after(state: State, unit: number): State {
    const next = this.stateOf(this.taken(state, unit));
    state.ascii[unit] = next;
    return next;
  }

  private taken(state: State, character: number): number[] {
    const next: number[] = [];
    for (const at of state.steps) {
      const step = this.steps[at] as Step;
      if (step.kind === "takes" && step.takes(character)) next.push(at + 1);
    }
    return next;
  }

  /** The state in which all is that is reached from these steps without a character. */
  private stateOf(from: readonly number[]): State {
    const reached = new Set<number>();
    const waiting = [...from];
    for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
      if (reached.has(at)) continue;
      reached.add(at);
      const step = this.steps[at] as Step;
      if (step.kind === "split" || step.kind === "jump") waiting.push(...step.to);
    }
    const steps = [...reached].sort((one, other) => one - other);
    const name = steps.join();
    let state = this.states.get(name);
    if (state === undefined) {
      if (this.states.size >= STATES_MAX) this.states = new Map();
      state = { steps, isEnd: reached.has(this.steps.length - 1), ascii: new Array<undefined>(128).fill(undefined) };
      this.states.set(name, state);
    }
    return state;
  }
}

type Range = readonly [number, number];

const code = (character: string): number => character.codePointAt(0) as number;

const LETTERS: { readonly [letter: string]: readonly Range[] } = {
  d: [[code("0"), code("9")]],
  w: [
    [code("0"), code("9")],
    [code("A"), code("Z")],
    [code("a"), code("z")],
    [code("_"), code("_")],
  ],
  s: [
    [code(" "), code(" ")],
    [code("\t"), code("\r")],
  ],
};

class Compiler {
  private readonly source: readonly string[];
  private at = 0;
  private steps: Step[] = [];
  /** A part is repeated without bound. */
  isEndless = false;

  constructor(text: string) {
    this.source = [...text];
  }

  compile(): Step[] {
    if (this.peek() === "^") this.at += 1;
    this.either();
    if (this.peek() === "$") this.at += 1;
    this.hold(this.at === this.source.length, "this pattern has a `)`, `$` or `^` that does not fit");
    this.push({ kind: "end" });
    return this.steps;
  }

  private peek(): string {
    return this.source[this.at] ?? "";
  }

  private hold(held: boolean, why: string): asserts held {
    if (!held) throw new SyntaxError(`the pattern ${this.source.join("")}: ${why}`);
  }

  private push(step: Step): void {
    this.hold(this.steps.length < STEPS_MAX, "it is too long; counted repetitions are written out");
    this.steps.push(step);
  }

  /** Takes the steps from `start` away, with places counted from there, so that they can stand anywhere. */
  private cut(start: number): Step[] {
    return this.steps.splice(start).map((step) => moved(step, -start));
  }

  private paste(steps: readonly Step[]): void {
    const start = this.steps.length;
    for (const step of steps) this.push(moved(step, start));
  }

  private either(): void {
    const start = this.steps.length;
    this.sequence();
    if (this.peek() !== "|") return;
    this.at += 1;
    const first = this.cut(start);
    this.push({ kind: "split", to: [start + 1, start + first.length + 2] });
    this.paste(first);
    const jump = this.steps.length;
    this.push({ kind: "jump", to: [0] });
    this.either();
    this.steps[jump] = { kind: "jump", to: [this.steps.length] };
  }

  private sequence(): void {
    while (this.at < this.source.length) {
      const next = this.peek();
      if (next === "|" || next === ")" || (next === "$" && this.at + 1 === this.source.length)) return;
      this.repeated();
    }
  }

  private repeated(): void {
    const start = this.steps.length;
    this.atom();
    const written = "a repetition is written {3}, {2,} or {2,5}";
    switch (this.peek()) {
      case "*":
        this.repeat(start, 0, undefined);
        break;
      case "+":
        this.repeat(start, 1, undefined);
        break;
      case "?":
        this.repeat(start, 0, 1);
        break;
      case "{": {
        this.at += 1;
        const least = this.number(written);
        let most: number | undefined = least;
        if (this.peek() === ",") {
          this.at += 1;
          most = this.peek() === "}" ? undefined : this.number(written);
        }
        this.hold(this.peek() === "}" && (most === undefined || least <= most), written);
        this.repeat(start, least, most);
        break;
      }
      default:
        return;
    }
    this.hold(!["*", "+", "?", "{"].includes(this.peek()), "a repetition is not repeated; use a group");
  }

  private number(written: string): number {
    let digits = "";
    for (; /^[0-9]$/.test(this.peek()); this.at += 1) digits += this.peek();
    this.hold(digits !== "", written);
    this.hold(Number(digits) <= STEPS_MAX, "a repetition is counted too high");
    return Number(digits);
  }

  /** Repeats the steps from `start` on, and passes over the sign that says so. */
  private repeat(start: number, least: number, most: number | undefined): void {
    this.at += 1;
    const once = this.cut(start);
    for (let copies = 0; copies < least; copies += 1) this.paste(once);
    const optional = () => {
      const here = this.steps.length;
      const extra = most === undefined ? 2 : 1;
      this.push({ kind: "split", to: [here + 1, here + once.length + extra] });
      this.paste(once);
      if (most === undefined) this.push({ kind: "jump", to: [here] });
    };
    if (most === undefined) {
      this.isEndless = true;
      optional();
      return;
    }
    for (let copies = least; copies < most; copies += 1) optional();
  }

  private atom(): void {
    const next = this.peek();
    if (next === "(") {
      this.at += 1;
      if (this.peek() === "?") {
        this.hold(this.source[this.at + 1] === ":", "there is no looking ahead or behind, and no flags");
        this.at += 2;
      }
      this.either();
      this.hold(this.peek() === ")", "a `(` is not closed");
      this.at += 1;
    } else if (next === "[") {
      this.class();
    } else if (next === ".") {
      this.at += 1;
      this.push({ kind: "takes", takes: () => true });
    } else if (next === "\\") {
      this.at += 1;
      this.escape();
    } else {
      this.hold(!["*", "+", "?", "{"].includes(next), "nothing stands before a repetition");
      this.hold(!["^", "$"].includes(next), "`^` stands only at the start and `$` at the end; otherwise escape them");
      this.pushCharacter(this.character());
    }
  }

  private escape(): void {
    const letter = this.peek();
    const ranges = LETTERS[letter.toLowerCase()];
    if (ranges === undefined) {
      this.pushCharacter(this.escaped());
      return;
    }
    this.at += 1;
    this.pushClass(ranges, letter !== letter.toLowerCase());
  }

  private pushCharacter(wanted: number): void {
    this.push({ kind: "takes", takes: (character) => character === wanted });
  }

  private pushClass(ranges: readonly Range[], isOthers: boolean): void {
    const takes = (character: number) =>
      ranges.some(([low, high]) => low <= character && character <= high) !== isOthers;
    this.push({ kind: "takes", takes });
  }

  private class(): void {
    this.at += 1;
    const isOthers = this.peek() === "^";
    if (isOthers) this.at += 1;
    const ranges: Range[] = [];
    while (this.peek() !== "]") {
      this.hold(this.at < this.source.length, "a `[` is not closed");
      const letters = this.peek() === "\\" ? LETTERS[this.source[this.at + 1] ?? ""] : undefined;
      if (letters !== undefined) {
        this.at += 2;
        ranges.push(...letters);
        continue;
      }
      const low = this.inClass();
      let high = low;
      const after = this.source[this.at + 1];
      if (this.peek() === "-" && after !== undefined && after !== "]") {
        this.at += 1;
        high = this.inClass();
      }
      this.hold(low <= high, "a range of characters runs backwards");
      ranges.push([low, high]);
    }
    this.hold(ranges.length > 0, "a class of no characters");
    this.at += 1;
    this.pushClass(ranges, isOthers);
  }

  private inClass(): number {
    if (this.peek() !== "\\") return this.character();
    this.at += 1;
    return this.escaped();
  }

  private character(): number {
    const character = code(this.peek());
    this.at += 1;
    return character;
  }

  private escaped(): number {
    const letter = this.peek();
    const plain = { n: "\n", r: "\r", t: "\t" }[letter];
    this.hold(
      plain !== undefined || /^[!-/:-@[-`{-~]$/.test(letter),
      "a backslash stands before d, w, s, n, r, t or a sign",
    );
    this.at += 1;
    return code(plain ?? letter);
  }
}

function moved(step: Step, by: number): Step {
  if (step.kind === "split") return { kind: "split", to: [step.to[0] + by, step.to[1] + by] };
  return step.kind === "jump" ? { kind: "jump", to: [step.to[0] + by] } : step;
}
