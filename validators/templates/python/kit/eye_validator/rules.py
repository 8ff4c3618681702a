"""Rules about text that many validators need, as questions. `Violations` has a method for each, which adds the violation
too.
"""

import ipaddress
import re

# ISO 3166-1 alpha-2, officially assigned, as the ISO Online Browsing Platform lists them
# (https://www.iso.org/obp/ui/#search/code/), 249 of them.
_COUNTRIES = frozenset("""
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD
    CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF
    GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN
    KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI
    SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI
    VN VU WF WS YE YT ZA ZM ZW
""".split())

# ISO 4217 List One, as SIX publishes it for ISO
# (https://www.six-group.com/en/products-services/financial-information/data-standards.html), of January 2026. The codes for
# tests and for no currency (XTS, XXX) are left out.
_CURRENCIES = frozenset("""
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF
    CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
    IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT
    MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD
    SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS
    VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XUA YER ZAR ZMW ZWG
""".split())

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_UUID = re.compile("[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
# White space and control characters, as Unicode has them.
_BLANKS = "\\x00-\\x20\\x7f-\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
_LOCAL = re.compile(rf"(?:[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]|(?![{_BLANKS}])[^\x00-\x7f])+")
_OUTSIDE_URLS = re.compile(rf"[{_BLANKS}\"<>\\^`{{|}}]")
_PORT = re.compile(":([0-9]+)")


def _bytes(text):
    return len(text.encode("utf-8", "surrogatepass"))


def is_country(text):
    """Whether this is a country by ISO 3166-1, in two capital letters."""
    return text in _COUNTRIES


def is_currency(text):
    """Whether this is a currency by ISO 4217, in three capital letters."""
    return text in _CURRENCIES


def is_host_name(text):
    """Whether this is a host name by RFC 1123: labels of letters, digits and inner hyphens, 63 bytes at most each, 253 bytes
    at most in all. Names in other scripts are sent as the browser has them, in their `xn--` form."""
    return len(text) <= 253 and _HOST.fullmatch(text) is not None


def is_email(text):
    """Whether this is written like an e-mail address as people have them: up to 64 letters, digits and signs of RFC 5321's
    dot-string, one `@`, and a host name with a dot. Whether somebody reads it, only a message can tell."""
    if len(text) > 254 or _bytes(text) > 254:
        return False
    local, sign, host = text.rpartition("@")
    return (
        sign != ""
        and _bytes(local) <= 64
        and all(_LOCAL.fullmatch(atom) for atom in local.split("."))
        and "." in host
        and is_host_name(host)
    )


def is_url(text):
    """Whether this is the address of a page: `http` or `https`, a host name or an address, perhaps a port, and no spaces. A
    name or password before the host is not taken, since no event should hold one."""
    if text.startswith("https://"):
        rest = text[8:]
    elif text.startswith("http://"):
        rest = text[7:]
    else:
        return False
    ends = [at for at in map(rest.find, "/?#") if at >= 0]
    end = min(ends, default=len(rest))
    authority, rest = rest[:end], rest[end:]
    if _OUTSIDE_URLS.search(rest):
        return False
    address, bracket, port = authority[1:].partition("]")
    if authority.startswith("[") and bracket:
        held = _is_address(address)
    else:
        at = authority.find(":")
        host, port = (authority, "") if at < 0 else (authority[:at], authority[at:])
        held = is_host_name(host)
    if not held or port == "":
        return held
    number = _PORT.fullmatch(port)
    digits = number.group(1).lstrip("0") if number else ""
    return 1 <= len(digits) <= 5 and int(digits) <= 65535


def _is_address(text):
    # An address with a scope is one of this machine alone.
    if len(text) > 45 or "%" in text or not text.isascii():
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def is_uuid(text):
    """Whether this is a UUID by RFC 9562: 8-4-4-4-12 hexadecimal digits, in either case."""
    return len(text) == 36 and _UUID.fullmatch(text) is not None
