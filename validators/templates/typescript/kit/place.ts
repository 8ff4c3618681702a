// Where in the data a value stands. A place becomes an RFC 6901 pointer only when a rule does not hold.

export class Place {
  /** The whole data. */
  static readonly DATA = new Place(undefined, "");

  private constructor(
    private readonly parent: Place | undefined,
    private readonly token: string | number,
  ) {}

  /** The place that a pointer names; the empty one is the whole data. */
  static from(pointer: string): Place {
    return new Place(undefined, pointer);
  }

  /** The value of a key within this one. */
  key(key: string): Place {
    return new Place(this, key);
  }

  /** An element of this list, from 0. */
  item(index: number): Place {
    return new Place(this, index);
  }

  /** The RFC 6901 pointer. */
  pointer(): string {
    if (this.parent === undefined) return String(this.token);
    return `${this.parent.pointer()}/${escaped(String(this.token))}`;
  }
}

function escaped(token: string): string {
  return token.replaceAll("~", "~0").replaceAll("/", "~1");
}

/** Makes an RFC 6901 pointer of keys and indexes: `pointer(["commits", "0", "a/b"])` is `/commits/0/a~1b`. */
export function pointer(tokens: readonly string[]): string {
  return tokens.map((token) => `/${escaped(token)}`).join("");
}
