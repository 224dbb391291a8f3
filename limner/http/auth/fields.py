"""Fields of what people send about accounts: one rule for each, whichever way it comes in."""

import re
from typing import Annotated, Literal

from pydantic import Field

from limner.core.emails import MAX_CHARACTERS
from limner.http.auth import passwords

NAME_MAX_CHARACTERS = 200
PASSWORD_MAX_CHARACTERS = 1024
"""Of a password that is only compared: an older rule may have let it be longer than today's."""

# Control characters, and the separators that some programs break lines at.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
NO_NAME = re.compile(rf"[{_CONTROLS}\ud800-\udfff]")
"""What a name may not hold; halves of characters too, which no JSON body brings along."""

Address = Annotated[
    str, Field(min_length=3, max_length=MAX_CHARACTERS, examples=["anna@example.org"])
]
"""A mail address that is still to be brought into its normal form."""
AnyAddress = Annotated[str, Field(max_length=MAX_CHARACTERS, examples=["anna@example.org"])]
"""What may be a mail address; what is none belongs to nobody."""
Password = Annotated[
    str, Field(max_length=PASSWORD_MAX_CHARACTERS, examples=["correct horse battery"])
]
"""A password that shall be the account's."""
NewPassword = Annotated[
    str,
    Field(
        min_length=passwords.MIN_CHARACTERS,
        max_length=passwords.MAX_CHARACTERS,
        examples=["correct horse battery"],
    ),
]
Name = Annotated[
    str,
    Field(max_length=NAME_MAX_CHARACTERS, pattern=rf"^[^{_CONTROLS}]*$", examples=["Anna"]),
]
AnyName = Annotated[str, Field(max_length=NAME_MAX_CHARACTERS, examples=["Anna"])]
"""A name whose characters are looked at together with the rest, so that all faults are told."""
Language = Literal["de", "en", "ru", "zh"]
"""Languages that a person may choose (BCP 47); mails come in Chinese, else in English."""
