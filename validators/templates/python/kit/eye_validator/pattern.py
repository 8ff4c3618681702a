"""A small language of patterns for whole texts. A pattern is compiled while the module is built, so that a wrong one does
not build; and matching takes time in proportion to the length of the text, whatever the sender wrote. Python's own `re`
tries every way that a pattern could match, which a sender can make last for years.
"""

import bisect
import re

#: Steps of a compiled pattern, ranges of characters in all its classes, and states of its table.
STEPS_MAX = 128
RANGES_MAX = 64
STATES_MAX = 4_096

_CLASSES = {"d": [(48, 57)], "w": [(48, 57), (65, 90), (95, 95), (97, 122)], "s": [(9, 13), (32, 32)]}
_SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_LAST = 0x10FFFF


class Pattern:
    """A pattern that whole texts match or do not.

    | written | matches |
    |---|---|
    | `a`, `\\.` | that character |
    | `.` | any character |
    | `[A-Z0-9_]`, `[^,]` | one of these, one of all others |
    | `\\d` `\\w` `\\s`, `\\D` `\\W` `\\S` | an ASCII digit, a letter or digit or `_`, a space; any other |
    | `ab`, `a|b`, `(ab)` | one after the other, either, a group |
    | `a?` `a*` `a+` `a{3}` `a{2,}` `a{2,5}` | repeated |

    `^` at the start and `$` at the end change nothing. There is nothing else: no looking ahead, no references.
    """

    __slots__ = ("text", "_starts", "_states")

    def __init__(self, text):
        self.text = text
        compiler = _Compiler(text)
        self._starts, self._states = _table(compiler.compile())

    def matches(self, text):
        """Whether the whole of a text matches."""
        starts, states = self._starts, self._states
        ends, following, run = states[0]
        at, length = 0, len(text)
        while at < length:
            # What leads nowhere else is passed over at once.
            if run is not None:
                at = run.match(text, at).end()
                if at == length:
                    break
            state = following[bisect.bisect_right(starts, ord(text[at])) - 1]
            if state is None:
                return False
            ends, following, run = states[state]
            at += 1
        return ends

    def __repr__(self):
        return f"Pattern({self.text!r})"


def _table(steps):
    """The states that a text leads through. Each says whether a text may end there, where each kind of character leads,
    and which characters lead back to it. Characters between two starts are of one kind."""
    starts = {0}
    for kind, *content in steps:
        if kind == "class":
            for low, high in content[0]:
                starts |= {low, high + 1}
    starts = sorted(start for start in starts if start <= _LAST)
    takes = []
    for kind, *content in steps:
        ranges = content[0] if kind == "class" else []
        takes.append([kind == "class" and any(low <= at <= high for low, high in ranges) != content[1] for at in starts])
    first = _reached(steps, [0])
    numbers, states, waiting = {first: 0}, [], [first]
    while waiting:
        state = waiting.pop(0)
        following = []
        for kind in range(len(starts)):
            after = _reached(steps, [step + 1 for step in state if takes[step][kind]])
            if after and after not in numbers:
                if len(numbers) >= STATES_MAX:
                    raise ValueError("this pattern has too many ways to match; take fewer repetitions in repetitions")
                numbers[after] = len(numbers)
                waiting.append(after)
            following.append(numbers[after] if after else None)
        states.append((len(steps) - 1 in state, following, _run(starts, following, len(states))))
    return starts, states


def _run(starts, following, number):
    """What takes all characters that lead from a state to itself, if there are any."""
    ends = starts[1:] + [_LAST + 1]
    own = [(low, high - 1) for low, high, to in zip(starts, ends, following) if to == number]
    if not own:
        return None
    return re.compile("[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in own) + "]*")


def _reached(steps, waiting):
    """All that is reached from some steps without a character."""
    seen = set()
    while waiting:
        step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        kind, *content = steps[step]
        if kind in ("split", "jump"):
            waiting += [step + offset for offset in content]
    return frozenset(step for step in seen if steps[step][0] in ("class", "end"))


class _Compiler:
    def __init__(self, source):
        self.source, self.at, self.steps, self.ranges = source, 0, [], 0

    def compile(self):
        if self._peek() == "^":
            self.at += 1
        self._either()
        if self._peek() == "$":
            self.at += 1
        self._hold(self.at == len(self.source), "this pattern has a `)`, `$` or `^` that does not fit")
        self._push(("end",))
        return self.steps

    def _hold(self, held, why):
        if not held:
            raise ValueError(f"{why}: {self.source!r}, at {self.at}")

    def _peek(self):
        return self.source[self.at : self.at + 1]

    def _push(self, *steps):
        self.steps += steps
        self._hold(len(self.steps) <= STEPS_MAX, "this pattern is too long; counted repetitions are written out")

    def _either(self):
        start = len(self.steps)
        self._sequence()
        if self._peek() != "|":
            return
        self.at += 1
        self.steps.insert(start, ("split", 1, len(self.steps) - start + 2))
        jump = len(self.steps)
        self._push(("jump", 0))
        self._either()
        self.steps[jump] = ("jump", len(self.steps) - jump)

    def _sequence(self):
        while self.at < len(self.source):
            if self._peek() in "|)" or (self._peek() == "$" and self.at + 1 == len(self.source)):
                return
            self._repeated()

    def _repeated(self):
        start = len(self.steps)
        self._atom()
        sign = self._peek()
        counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if sign == "{":
            found = re.compile(r"\{([0-9]{1,4})(,([0-9]{1,4})?)?\}").match(self.source, self.at)
            self._hold(found is not None, "a repetition is written {3}, {2,} or {2,5}")
            least = int(found[1])
            most = least if found[2] is None else None if found[3] is None else int(found[3])
            self._hold(most is None or least <= most, "a repetition is written {3}, {2,} or {2,5}")
            self._hold(max(least, most or 0) <= STEPS_MAX, "a repetition is counted too high")
            self.at = found.end()
        elif sign in counts and sign:
            least, most = counts[sign]
            self.at += 1
        else:
            return
        self._repeat(start, least, most)
        next_sign = self._peek()
        self._hold(not next_sign or next_sign not in "*+?{", "a repetition is not repeated; use a group")

    def _repeat(self, start, least, most):
        once = self.steps[start:]
        del self.steps[start:]
        for _ in range(least):
            self._push(*once)
        if most is None:
            self._push(("split", 1, len(once) + 2), *once, ("jump", -(len(once) + 1)))
            return
        for _ in range(most - least):
            self._push(("split", 1, len(once) + 1), *once)

    def _atom(self):
        sign = self._peek()
        if sign == "(":
            self.at += 1
            if self._peek() == "?":
                self._hold(
                    self.source[self.at + 1 : self.at + 2] == ":", "there is no looking ahead or behind, and no flags"
                )
                self.at += 2
            self._either()
            self._hold(self._peek() == ")", "a `(` is not closed")
            self.at += 1
        elif sign == "[":
            self._class()
        elif sign == ".":
            self.at += 1
            self._push(("class", [(0, _LAST)], False))
        elif sign == "\\" and self.source[self.at + 1 : self.at + 2].lower() in _CLASSES:
            letter = self.source[self.at + 1]
            self.at += 2
            self._push(("class", self._counted(_CLASSES[letter.lower()]), letter.isupper()))
        else:
            self._hold(sign not in "*+?{", "nothing stands before a repetition")
            self._hold(sign not in "^$", "`^` stands only at the start and `$` at the end; otherwise escape them")
            character = self._character()
            self._push(("class", [(character, character)], False))

    def _counted(self, ranges):
        self.ranges += len(ranges)
        self._hold(self.ranges <= RANGES_MAX, "this pattern has too many ranges of characters")
        return ranges

    def _class(self):
        self.at += 1
        others = self._peek() == "^"
        self.at += others
        ranges = []
        while self._peek() != "]":
            self._hold(self.at < len(self.source), "a `[` is not closed")
            letter = self.source[self.at + 1 : self.at + 2]
            if self._peek() == "\\" and letter in _CLASSES:
                ranges += self._counted(_CLASSES[letter])
                self.at += 2
                continue
            low = high = self._character()
            if self._peek() == "-" and self.source[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                high = self._character()
            self._hold(low <= high, "a range of characters runs backwards")
            ranges += self._counted([(low, high)])
        self._hold(bool(ranges), "a class of no characters")
        self.at += 1
        self._push(("class", ranges, others))

    def _character(self):
        """The next character of the pattern, be it escaped."""
        if self._peek() != "\\":
            self.at += 1
            return ord(self.source[self.at - 1])
        letter = self.source[self.at + 1 : self.at + 2]
        self._hold(letter != "" and letter in "nrt" + _SIGNS, "a backslash stands before d, w, s, n, r, t or a sign")
        self.at += 2
        return ord({"n": "\n", "r": "\r", "t": "\t"}.get(letter, letter))
