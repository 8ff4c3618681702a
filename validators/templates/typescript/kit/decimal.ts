// Decimal numbers, for amounts of money: 19.99 is 19.99 and no binary fraction near it.

const DIGITS_MAX = 38;
const NUMBER = /^(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$/;

/** A decimal number of up to 38 digits, exact. It never goes by way of a float. */
export class Decimal {
  static readonly ZERO = new Decimal(0n, 0);

  /** The number is `scaled` / 10^`digits`. The last digit after the point is not 0. */
  private constructor(
    private readonly scaled: bigint,
    private readonly digits: number,
  ) {}

  /** The number of a text in the source. Throws if it is none. */
  static of(text: string): Decimal {
    const decimal = Decimal.parse(text);
    if (decimal === undefined) throw new TypeError("this is no decimal number");
    return decimal;
  }

  /** Reads a number such as `-1234.50` or `1.5e3`: as JSON writes numbers, 38 digits at most. */
  static parse(text: string): Decimal | undefined {
    const parts = NUMBER.exec(text);
    if (parts === null) return undefined;
    const fraction = parts[3] ?? "";
    const digits = (parts[2] + fraction).replace(/^0+/, "");
    if (digits.length > DIGITS_MAX || fraction.length > DIGITS_MAX) return undefined;
    if (digits === "") return Decimal.ZERO;
    const kept = digits.replace(/0+$/, "");
    // No number of 38 digits has an exponent of four, and a longer one is no less than that.
    const exponent = Math.max(-1_000, Math.min(1_000, Number(parts[4] ?? "0")));
    let places = fraction.length - exponent;
    const dropped = Math.min(digits.length - kept.length, Math.max(0, places));
    places -= dropped;
    let units = digits.slice(0, digits.length - dropped);
    if (places < 0) {
      if (units.length - places > DIGITS_MAX) return undefined;
      units += "0".repeat(-places);
      places = 0;
    }
    if (places > DIGITS_MAX) return undefined;
    return new Decimal(BigInt((parts[1] ?? "") + units), places);
  }

  /** Digits after the point, without zeros at the end: 2 for 19.99, 0 for 20.00. */
  places(): number {
    return this.digits;
  }

  /** The number in parts of 10^`places`, such as cents for 2. Nothing if it has more places. */
  units(places: number): bigint | undefined {
    if (places < this.digits || places > DIGITS_MAX) return undefined;
    return this.scaled * 10n ** BigInt(places - this.digits);
  }

  /** Less than 0, 0, or more than 0, as this number is less than, equal to, or more than another. */
  compare(other: Decimal): number {
    const places = Math.max(this.digits, other.digits);
    const [one, another] = [this.units(places) as bigint, other.units(places) as bigint];
    return one < another ? -1 : one > another ? 1 : 0;
  }

  equals(other: Decimal): boolean {
    return this.compare(other) === 0;
  }

  toString(): string {
    const isNegative = this.scaled < 0n;
    const digits = (isNegative ? -this.scaled : this.scaled).toString().padStart(this.digits + 1, "0");
    const whole = digits.slice(0, digits.length - this.digits);
    const part = digits.slice(digits.length - this.digits);
    return `${isNegative ? "-" : ""}${whole}${part === "" ? "" : `.${part}`}`;
  }
}
