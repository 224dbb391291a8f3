"""Text that breaks programs: feed it to whatever takes words from people.

All are valid ``str`` without lone surrogates, so that all may come as JSON.
"""

NASTY_STRINGS: tuple[str, ...] = (
    # templates, format strings, code
    "{{7*7}}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for x in range(10**9) %}a{% endfor %}",
    "{# comment #}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "{x.__class__} {0} {} {missing!r:>99999}",
    "%s %n %99999999d %(name)s %%",
    "$(touch /tmp/x) `id` ; rm -rf / | cat & true",
    "../../../../etc/passwd\\..\\..\\win.ini",
    "'; DROP TABLE tasks; -- \" OR 1=1",
    '{"$gt": ""}',
    '=HYPERLINK("http://x.test","sum")',
    # markup
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</textarea></title></style><!-- --><![CDATA[ ]]>",
    '<a href="javascript:alert(1)">&lt;&amp;&#x27;&notanentity;</a>',
    "[x](javascript:alert(1)) **bold** `code`",
    # lines, mail, HTTP
    "a@x.test\r\nBcc: v@x.test",
    "first\r\n.\r\nMAIL FROM:<x@x.test>\r\n",
    ".\n..\n...\n.hidden",
    "From me to you\nFrom: me",
    "\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=b",
    "a\rb\nc\r\nd\u0085e\u2028f\u2029g\vh\fi",
    "=?utf-8?q?=41=42?= =?utf-8?b?QUI=?=",
    "=41=0D=0A soft=\nbreak",
    "data: x\n\nevent: done\nid: 7",
    # control characters and space
    "nul\x00inside",
    "\x1b[31mred\x1b[0m\x07\x08\x7f",
    "   leading, trailing and  double   ",
    "\t\ttabs\t",
    "\u00a0\u2003\u3000no-break, em and ideographic space",
    "",
    " ",
    # Unicode
    "\ufeffbyte order mark",
    "\u202eright to left\u202c and \u2067isolated",
    "\u200bzero\u200cwidth\u200djoin\u2060er\u00adsoft",
    "שלום عربي فارسی",
    "帮我画一只猫，水彩风格 🐈‍⬛",
    "👩‍👩‍👧‍👦🏳️‍🌈🇨🇳👍🏽",
    "Z̸̧̛̙͍͎a̶̡͓l̴̢͔g̵̨̬o̷͖ and e\u0301 against \u00e9",
    "ＡＢＣ＠ｅｘａｍｐｌｅ．ｃｏｍ ﬁ Ⅷ",
    "İıſßŒﷺ",
    "\U0010ffff\ufffe\uffff\ud7ff\ue000",
    "田中さんにあげて下さい 。、〜",
    "ไทย हिन्दी தமிழ்",
    # numbers and words that are read as something else
    "NaN",
    "-0",
    "1e400",
    "null",
    "true",
    "0x1F",
    "١٢٣",
    # size and regular expressions
    "a" * 10_000,
    "🦊" * 1_000,
    "((((((((((a+)+)+)+)+)+)+)+)+)+$",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
    "[" * 500 + "]" * 500,
)

LINE_BREAKS: tuple[str, ...] = (
    "\r\n",
    "\n",
    "\r",
    "\x00",
    "\x0b",
    "\x0c",
    "\x85",
    "\u2028",
    "\u2029",
)
"""What may never reach a header."""

ENCODED_BREAKS: tuple[str, ...] = (
    "=?utf-8?q?a=0D=0ABcc:_v@x.test?=",
    "=?utf-8?b?YQ0KQmNjOiB2QHgudGVzdA==?=",
    "=?us-ascii?q?=0D=0A=0D=0AX-Evil:_1?= =?us-ascii?q?=0D=0ABcc:_v@x.test?=",
)
"""Line breaks in encoded words (RFC 2047): harmless unless someone decodes and writes them out."""
