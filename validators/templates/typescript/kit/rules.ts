// Rules about text that many validators need, as questions. `Violations` has a method for each, which adds the violation too.

/** Country codes of two letters: ISO 3166-1 alpha-2, officially assigned. */
const COUNTRIES =
  "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD " +
  "CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF " +
  "GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN " +
  "KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA " +
  "NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI " +
  "SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI " +
  "VN VU WF WS YE YT ZA ZM ZW";

/** Currency codes: ISO 4217 List One, of January 2026. The codes for tests and for no currency (XTS, XXX) are left out. */
const CURRENCIES =
  "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF " +
  "CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF " +
  "IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT " +
  "MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD " +
  "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS " +
  "VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XUA YER ZAR ZMW ZWG";

const isCountryCode = listed(COUNTRIES);
const isCurrencyCode = listed(CURRENCIES);

// The white space and the control characters of Unicode. `\s` has U+FEFF besides, and lacks U+0085.
const SPACE_OR_CONTROL = /[\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const LABEL = /^[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?$/;
const ATOM = /^[0-9A-Za-z!#$%&'*+\-/=?^_`{|}~\u0080-\uffff]+$/;
const NO_ADDRESS = /["<>\\^`{|}]/;
const UUID = /^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$/;

function listed(list: string): (code: string) => boolean {
  const codes = new Set(list.split(" "));
  return (code) => codes.has(code);
}

/** Whether this is a country by ISO 3166-1, in two capital letters. */
export function isCountry(text: string): boolean {
  return isCountryCode(text);
}

/** Whether this is a currency by ISO 4217, in three capital letters. */
export function isCurrency(text: string): boolean {
  return isCurrencyCode(text);
}

/** Bytes of a text in UTF-8, or `max + 1` if there are more than `max`. */
function bytesOf(text: string, max: number): number {
  if (text.length > max) return max + 1;
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0) as number;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return Math.min(bytes, max + 1);
}

/**
 * Whether this is a host name by RFC 1123: labels of letters, digits and inner hyphens, 63 bytes at most each, 253 bytes at most
 * in all. Names in other scripts are sent as the browser has them, in their `xn--` form.
 */
export function isHostName(text: string): boolean {
  return text.length <= 253 && text.split(".").every((label) => label.length <= 63 && LABEL.test(label));
}

/**
 * Whether this is written like an e-mail address as people have them: up to 64 letters, digits and signs of RFC 5321's
 * dot-string, one `@`, and a host name with a dot. Whether somebody reads it, only a message can tell.
 */
export function isEmail(text: string): boolean {
  const at = text.lastIndexOf("@");
  if (at < 0 || bytesOf(text, 254) > 254) return false;
  const [local, host] = [text.slice(0, at), text.slice(at + 1)];
  return (
    bytesOf(local, 64) <= 64 &&
    !SPACE_OR_CONTROL.test(local) &&
    local.split(".").every((atom) => ATOM.test(atom)) &&
    host.includes(".") &&
    isHostName(host)
  );
}

/**
 * Whether this is the address of a page: `http` or `https`, a host name or an address, perhaps a port, and no spaces. A name or
 * password before the host is not taken, since no event should hold one.
 */
export function isUrl(text: string): boolean {
  const scheme = text.startsWith("https://") ? 8 : text.startsWith("http://") ? 7 : 0;
  if (scheme === 0) return false;
  const found = text.slice(scheme).search(/[/?#]/);
  const end = found < 0 ? text.length : scheme + found;
  const [authority, rest] = [text.slice(scheme, end), text.slice(end)];
  if (SPACE_OR_CONTROL.test(rest) || NO_ADDRESS.test(rest)) return false;
  const close = authority.indexOf("]");
  const isBracketed = authority.startsWith("[") && close > 0;
  const colon = isBracketed ? close + 1 : authority.indexOf(":");
  const hostEnd = colon < 0 ? authority.length : colon;
  const isHost = isBracketed ? isIpv6(authority.slice(1, close)) : isHostName(authority.slice(0, hostEnd));
  return isHost && isPort(authority.slice(hostEnd));
}

function isPort(text: string): boolean {
  if (text === "") return true;
  const digits = /^:0*([1-9][0-9]{0,4})$/.exec(text);
  return digits !== null && Number(digits[1]) <= 65_535;
}

function isIpv4(text: string): boolean {
  const parts = text.split(".");
  return parts.length === 4 && parts.every((part) => /^(?:0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255);
}

function isIpv6(text: string): boolean {
  if (text.length > 45) return false;
  const halves = text.split("::");
  if (halves.length > 2) return false;
  let groups = 0;
  for (const [at, half] of halves.entries()) {
    const parts = half === "" ? [] : half.split(":");
    for (const [index, part] of parts.entries()) {
      const isLast = at === halves.length - 1 && index === parts.length - 1;
      if (isLast && part.includes(".")) {
        if (!isIpv4(part)) return false;
        groups += 2;
      } else {
        if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return false;
        groups += 1;
      }
    }
  }
  return halves.length === 2 ? groups <= 7 : groups === 8;
}

/** Whether this is a UUID by RFC 9562: 8-4-4-4-12 hexadecimal digits, in either case. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}
