"""Draws expressions and templates, and renders them with Jinja as transformers sets it up.

    python Tests/Interop/drawn_templates.py SEED COUNT > Tests/Fixtures/templates/drawn.jsonl     records cases for the Swift tests

Expressions are drawn by type, so that most of them have a value; one in three takes its operands from anywhere, for the errors.
"""
import copy
import json
import random
import re
import sys
import warnings

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi there, 你好 <b>&  "},
        {"role": "assistant", "content": "Yes\nno", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": [1, 2.5, None, True]}}}]}],
    "tools": [{"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}],
    "n": 7, "m": -3, "f": 2.5, "g": 1e20, "s": "Hello World", "e": "", "t": "a,b,,c", "u": "Straße ÀÉ", "l": [3, 1, 2],
    "ls": ["b", "A", "c"], "d": {"b": 1, "a": 2, "items": 5}, "ld": [{"a": 1, "b": "x"}, {"a": 3, "b": "y"}, {"a": 1}], "nn": None,
    "tr": True, "fa": False, "nl": [[1, 2], [3, 4]], "el": [], "bos_token": "<s>"}

FILTERS = """abs|attr('a')|batch(2)|list|capitalize|center(9)|count|default('d')|d('z', true)|dictsort|escape|first|float|format(1, 2)
groupby('a')|indent|indent(2, true)|int|int(9)|int(0, 16)|join|join(', ')|join('-', attribute='a')|last|length|list|lower|items~list
map('upper')~list|map(attribute='a')~list|map('string')~join('/')|max|min|reject('none')~list|rejectattr('a')~list|replace('l', 'L')
replace('', '-')|reverse|reverse~list|round|round(1)|round(1,'floor')|round(-1)|safe|select~list|select('string')~list
selectattr('a', 'equalto', 1)~list|selectattr('b', 'defined')~list|slice(2)~list|sort|sort(reverse=true)|sort(attribute='a')|string
striptags|sum|sum(attribute='a')|title|tojson|tojson(indent=2)|trim|trim('a')|truncate(5)|truncate(5, true, '..')|unique~list|upper
urlencode|wordcount|wordwrap(6)|xmlattr|filesizeformat|pprint|nosuch|tojson(ensure_ascii=true)|tojson(separators=(',', ':'))"""
FILTERS = [part.replace("~", "|") for line in FILTERS.split("\n") for part in line.split("|")]
TESTS = """boolean callable defined divisibleby(2) eq(1) escaped even false filter float ge(1) gt(2) in([1,2,'a']) integer iterable le(3)
lower lt(2) mapping ne('a') none number odd sameas(none) sequence string test true undefined upper""".split()
TEXT_METHODS = """upper() lower() strip() replace('l','_') replace('a','b',1) title() capitalize() join(['p','q']) join(ls) zfill(6)
center(15,'*') ljust(8) rjust(8,'.') lstrip('Hax') rstrip('d') removeprefix('He') removesuffix('ld') swapcase() casefold()
expandtabs(4)""".split()
METHODS = TEXT_METHODS + """split() split(',') split(None) rsplit('o',1) startswith('H') endswith(('d','x')) find('o') rfind('o') index('o')
count('l') format(1,2) format(*l) splitlines() partition('o') rpartition('o') isdigit() isalpha() isalnum() isspace() isupper() islower()
istitle() keys()|list values()|list items()|list get('a') get('zz',5) copy() count(1) index(1) append(1) pop() update({}) a b role content
x.y real bit_length() is_integer() 0 isidentifier()""".split()
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in"]
SUBSCRIPTS = ["0", "-1", "1:", "::-1", ":2", "1:-1", "-2:", "::2", "5", "s", "'a'", "nn", "0:n"]


class Drawing:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, *choices):
        return self.random.choice(choices)

    def chance(self, p):
        return self.random.random() < p

    # Expressions

    def number(self, depth):
        if depth <= 0 or self.chance(0.25):
            return self.one("1", "0", "2", "3", "-1", "3.5", "0.1", "n", "m", "f", "10", "7", "2.675", "tr", "1e3")
        kind = self.random.random()
        if kind < 0.4:
            return f"({self.number(depth - 1)} {self.one(*OPERATORS[:7])} {self.number(depth - 1)})"
        if kind < 0.6:
            return self.number(depth - 1) + "|" + self.one("abs", "int", "float", "round", "round(1)", "round(2)", "round(1,'ceil')", "round(-1)")
        if kind < 0.75:
            return self.text(depth - 1) + "|" + self.one("length", "wordcount", "int", "float", "int(-1)")
        if kind < 0.9:
            return self.list(depth - 1) + "|" + self.one("length", "sum", "min", "max", "first", "last")
        return self.text(depth - 1) + "." + self.one("find", "count", "rfind") + "(" + self.text(0) + ")"

    def text(self, depth):
        if depth <= 0 or self.chance(0.2):
            return self.one("'a'", "'abc'", "' x '", "''", "s", "e", "t", "u", "'a b\\tc\\n'", "'%s'", "bos_token", "messages[0].content",
                            "messages[1]['content']", "'ß'", "'ΑΣ'", "\"it's\"", "'<b>'")
        kind = self.random.random()
        if kind < 0.2:
            return f"({self.text(depth - 1)} {self.one('+', '~')} {self.text(depth - 1)})"
        if kind < 0.45:
            return self.text(depth - 1) + "|" + self.one(
                "upper", "lower", "title", "capitalize", "trim", "escape", "replace('l','L')", "center(12)", "indent(2)",
                "indent(2,true,true)", "truncate(6)", "truncate(7,false,'..',0)", "wordwrap(5)", "wordwrap(4,false)", "urlencode",
                "reverse", "string", "tojson", "tojson(ensure_ascii=true)", "default('d',true)", "trim(' aH')", "list|join('-')")
        if kind < 0.65:
            return self.text(depth - 1) + "." + self.one(*TEXT_METHODS)
        if kind < 0.75:
            return self.text(depth - 1) + "[" + self.one("0:2", "-1", "::-1", "1:", "-3:", "::2", "5:1:-1") + "]"
        if kind < 0.85:
            return self.list(depth - 1) + "|" + self.one("join", "join(',')", "tojson", "string", "first", "tojson(indent=2)")
        values = ", ".join(self.one(self.number, self.text)(depth - 1) for _ in range(2))
        if kind < 0.93:
            form = self.one("%s|%r", "%5s|%-5s", "%d|%s", "%05.1f|%x", "%+d|%e", "%g|%o", "%c|%%|%s", "%.3s|%s")
            return f"('{form}' % ({values}))"
        form = self.one("{}-{}", "{0}{1}{0}", "{:>6}|{:<6}", "{:^7}|{!r}", "{:05d}|{:,}", "{:.2f}|{:e}", "{:x}|{:b}", "{:+}|{:%}",
                        "{:*^9}|{:g}", "{:08.3f}{:>08}", "{:,.1f}{:_}")
        return f"'{form}'.format({values})"

    def list(self, depth):
        if depth <= 0 or self.chance(0.25):
            return self.one("l", "ls", "[1,2,3]", "['x','Y','a']", "nl", "el", "ld", "[1, none, true, 2.5]", "(1,2)", "messages")
        kind = self.random.random()
        if kind < 0.45:
            return self.list(depth - 1) + "|" + self.one(*[part for part in FILTERS if part.endswith("list") or part.startswith("sort")])
        if kind < 0.55:
            return self.list(depth - 1) + "[" + self.one("0:2", "::-1", "1:", "-1:") + "]"
        if kind < 0.7:
            return self.text(depth - 1) + "." + self.one("split()", "split(',')", "splitlines()", "rsplit(' ',1)", "partition('a')")
        if kind < 0.8:
            return "d" + self.one(".items()|list", "|dictsort", ".keys()|list", ".values()|list", "|items|list", "|dictsort(by='value')")
        if kind < 0.9:
            return f"[{self.one(self.number, self.text, self.list)(depth - 1)}, {self.number(depth - 1)}]"
        return f"range({self.one('3', '1,4', '5,0,-2', '0')})|list"

    def truth(self, depth):
        kind = self.random.random()
        if kind < 0.4:
            return f"{self.number(depth - 1)} {self.one(*OPERATORS[8:14])} {self.number(depth - 1)}"
        if kind < 0.6:
            return f"{self.text(depth - 1)} {self.one('in', 'not in', '==')} {self.text(depth - 1)}"
        if kind < 0.9:
            return f"{self.one(self.number, self.text, self.list)(depth - 1)} is {self.one('', 'not ')}{self.one(*TESTS)}"
        return f"({self.truth(depth - 1)} {self.one('and', 'or')} {self.truth(depth - 1)})"

    def expression(self, depth):
        if depth <= 0:
            return self.one(*CONTEXT, "missing", "1", "'a'", "none", "true", "[1, 2]", "{'a': 1}", "(1,)")
        if self.chance(0.7):
            return self.one(self.number, self.text, self.list, self.truth)(depth)
        inner, kind = self.expression(depth - 1), self.random.random()
        if kind < 0.3:
            return f"{inner} {self.one(*OPERATORS)} {self.expression(depth - 1)}"
        if kind < 0.5:
            return f"{inner}|{self.one(*FILTERS)}"
        if kind < 0.6:
            return f"{inner} is {self.one('', 'not ')}{self.one(*TESTS, 'nosuch')}"
        if kind < 0.75:
            return f"({inner}).{self.one(*METHODS)}"
        if kind < 0.85:
            return f"({inner})[{self.one(*SUBSCRIPTS)}]"
        if kind < 0.95:
            return f"({inner} if {self.truth(1)}" + (f" else {self.expression(depth - 1)})" if self.chance(0.7) else ")")
        return self.one("not ", "-") + inner

    # Statements

    def space(self):
        return self.one("", "", "\n", "  ", "\n  ", " \n")

    def body(self, depth):
        if depth <= 0:
            return self.one("x", " y ", "\nz\n")
        return self.space() + "".join(self.statement(depth - 1) for _ in range(self.random.randint(0, 2))) + self.space()

    def statement(self, depth):
        kind, left, right = self.random.random(), self.one("", "-", "", "", "+"), self.one("", "-", "", "")

        def tag(text):
            return "{%" + left + " " + text + " " + right + "%}"
        body = self.body
        if depth <= 0 or kind < 0.3:
            return "{{" + self.one("", "-") + " " + self.expression(2) + " " + self.one("", "-") + "}}"
        if kind < 0.42:
            middle = tag("elif " + self.truth(1)) + body(depth) if self.chance(0.3) else ""
            return tag("if " + self.truth(2)) + body(depth) + middle + (tag("else") + body(depth) if self.chance(0.5) else "") + tag("endif")
        if kind < 0.62:
            source = self.one("l", "ls", "messages", "d.items()", "d", "t", "nl", "range(4)", "el", self.list(1))
            shown = self.one("x", "k", "loop.index", "loop.first", "loop.last", "loop.length", "loop.revindex", "loop.cycle('a','b')",
                             "loop.previtem", "loop.nextitem", "loop.changed(x)", "loop.depth")
            end = self.one("", "", "{% if loop.index == 2 %}{% break %}{% endif %}", "{% if loop.first %}{% continue %}{% endif %}")
            test = " if " + self.truth(1) if self.chance(0.2) else ""
            return (tag(f"for {self.one('x', 'x', 'k, v', 'n')} in {source}{test}") + body(depth) + "{{ " + shown + " }}" + end
                    + (tag("else") + "none" if self.chance(0.3) else "") + tag("endfor"))
        if kind < 0.74:
            return tag(f"set {self.one('a', 'n', 'q', 'x', 's')} = {self.expression(2)}")
        if kind < 0.78:
            return tag("set " + self.one("a", "q") + self.one("", " | upper", " | trim | length")) + body(depth) + tag("endset")
        if kind < 0.82:
            return tag("set ns = namespace(c=0)") + tag("for x in l") + tag("set ns.c = ns.c + x") + tag("endfor") + "{{ ns.c }}"
        if kind < 0.88:
            shown = self.one("{{ a }}{{ b }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller else 'nc' }}", "{{ c }}")
            call = self.one("{{ mm(1) }}", "{{ mm(1, b=3) }}", "{{ mm(1,2,3,4) }}", "{{ mm(x=1) }}", "{{ mm() }}",
                            "{% call mm(1) %}in{% endcall %}", "{{ mm(*l) }}")
            return tag("macro mm(a, b=2" + self.one("", ", c=a") + ")") + body(depth) + shown + tag("endmacro") + call
        if kind < 0.91:
            return tag(f"with a = {self.expression(1)}, b = 1") + body(depth) + "{{ a }}" + tag("endwith")
        if kind < 0.94:
            return tag("filter " + self.one("upper", "trim", "replace('a','b')", "indent")) + body(depth) + tag("endfilter")
        if kind < 0.96:
            return "{#" + left + " comment " + right + "#}"
        if kind < 0.97:
            return "{% raw %}{{ x }}{% endraw %}"
        if kind < 0.99:
            return tag("generation") + body(depth) + tag("endgeneration")
        return self.one("{{ raise_exception('no ' ~ n) }}", "{{ x", "{% endif %}", "{% if %}", "}}", "{{ 1 + }}", "{% for %}")

    def template(self):
        if self.chance(0.5):
            return "{{ " + self.expression(3) + " }}"
        return "".join(self.space() + self.statement(3) for _ in range(self.random.randint(1, 3)))


def rendered(template, context=CONTEXT):
    """What transformers' environment makes of a template; None for an error."""
    from transformers.utils import chat_template_utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Filters can change a list they are given.
            return chat_template_utils._compile_jinja_template(template).render(**copy.deepcopy(context))
        except Exception:  # whatever Python raises
            return None


# Texts that hold addresses or bytes, texts marked as safe, and integers beyond 64 bits: known and documented.
UNCLEAR = re.compile(r"object at 0x|built-in method|<function|bound method|<class|dict_\w+\(|LoopContext|<Macro|generator|b'|M.rkup|\d{19,}")


def cases(seed, count):
    """Templates and what they give; None where they fail."""
    drawing = Drawing(seed)
    while count:
        template = drawing.template()
        expected = rendered(template)
        if expected is not None and UNCLEAR.search(expected):
            continue
        yield template, expected
        count -= 1


if __name__ == "__main__":
    for template, expected in cases(int(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps({"template": template, "expected": expected}, ensure_ascii=False))
