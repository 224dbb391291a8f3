"""Settings that change while the service runs: ``GET`` and ``PUT /api/settings``."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

DEFAULT_KEYWORDS = (
    "出图",
    "生成图",
    "做图片",
    "帮我画",
    "AI生成",
    "来一张",
    "画一张",
    "生成一张",
    "做视频",
    "draw",
    "paint",
    "generate",
    "make a picture",
    "make a video",
)
DEFAULT_DENY_WORDS = (
    *("加微信", "加我微信", "加薇信", "微信号", "代购", "刷单", "免费领取", "点击领取", "私聊领取"),
    *("互粉", "互关", "涨粉", "买粉", "日入过千", "博彩", "网赌", "代开发票"),
    *("follow for follow", "follow back", "sub4sub", "f4f", "buy followers", "crypto giveaway"),
    *("free bitcoin", "free crypto", "link in bio", "click my profile", "whatsapp me"),
    *("work from home", "earn money fast", "onlyfans"),
)

Word = Annotated[str, Field(min_length=1, max_length=64)]
Words = Annotated[tuple[Word, ...], Field(max_length=500)]
WHOLE_MAX = 2**53 - 1
"""The largest whole number that every program reads from JSON as it is (RFC 8259 section 6)."""
ProviderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Tunables(BaseModel):
    """Every tunable with its default and its bounds; times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_interval_s: int = Field(120, ge=5, le=86_400, description="Seconds between two polls")
    keywords: Words = Field(DEFAULT_KEYWORDS, description="Words that say a picture is wanted")
    deny_words: Words = Field(DEFAULT_DENY_WORDS, description="Words that drop a comment")
    confidence_threshold: float = Field(
        0.7, ge=0, le=1, description="Below this, a person reviews the wish"
    )
    llm_timeout_s: float = Field(15, ge=1, le=120, description="Time limit of one model call")
    llm_monthly_tokens: int = Field(
        2_000_000, ge=0, description="Tokens a month after which the rules decide alone"
    )
    image_provider: ProviderName = Field("local", description="Who makes pictures")
    video_provider: ProviderName = Field("local", description="Who makes videos")
    status_first_delay_s: float = Field(15, ge=0.05, le=3600, description="First status check")
    status_max_delay_s: float = Field(60, ge=0.05, le=3600, description="Longest pause")
    status_max_attempts: int = Field(20, ge=1, le=1000, description="Status checks in all")
    mail_per_address_per_day: int = Field(10, ge=1, le=10_000, description="Mails per address")
    result_link_ttl_s: int = Field(3600, ge=60, le=604_800, description="Life of a signed link")
    review_ttl_s: int = Field(
        604_800, ge=60, le=315_360_000, description="A wish waits this long for review"
    )
    retention_days: int = Field(90, ge=1, le=3650, description="Life of comments and addresses")
    upload_max_bytes: int = Field(104_857_600, ge=1024, description="Largest result or upload")
    image_max_pixels: int = Field(50_000_000, ge=4096, description="Largest picture")
    inline_picture_max_bytes: int = Field(
        5_242_880, ge=0, description="Larger pictures are linked, not put into the mail"
    )
    rate_limit_account_per_s: float = Field(
        50, ge=0.1, le=100_000, description="Requests a second of one account"
    )
    rate_limit_account_burst: int = Field(
        200, ge=1, le=1_000_000, description="Requests of one account at once"
    )
    rate_limit_anonymous_per_s: float = Field(
        10, ge=0.1, le=100_000, description="Requests a second of one address without an account"
    )
    rate_limit_anonymous_burst: int = Field(
        50, ge=1, le=1_000_000, description="Requests of one address at once without an account"
    )
    login_limit_per_account_per_min: int = Field(
        10, ge=1, le=100_000, description="Failed sign-ins of one account a minute"
    )
    login_limit_per_address_per_min: int = Field(
        60, ge=1, le=100_000, description="Sign-ins tried from one address a minute"
    )
    registration_is_open: bool = Field(True, description="Whether anybody may make an account")
    session_idle_s: int = Field(
        1_209_600, ge=300, le=31_536_000, description="A session unused for so long ends"
    )
    session_life_s: int = Field(
        2_592_000, ge=300, le=31_536_000, description="A session ends after so long in any case"
    )

    @field_validator("*")
    @classmethod
    def _is_exact(cls, value: Any) -> Any:
        """Refuse a number that is stored as JSON and would come back as another."""
        if isinstance(value, int) and abs(value) > WHOLE_MAX:
            raise ValueError(f"has to be at most {WHOLE_MAX}")
        return value
