# SPDX-License-Identifier: Apache-2.0
"""Text format: what OVMS's own files use is understood, everything else is refused with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core import pbtxt
from ovms_scaler.core.pbtxt import Field, Items, Message, Scalar, Text, parse_pbtxt, render_pbtxt
from ovms_scaler.errors import InputError


def one(text: str) -> Field:
    fields = parse_pbtxt(text).fields
    assert len(fields) == 1
    return fields[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a: 1", Scalar(token="1"), id="integer"),
        pytest.param("a:1,", Scalar(token="1"), id="no space, a comma after it"),
        pytest.param("a: 1;", Scalar(token="1"), id="semicolon after it"),
        pytest.param("a: - 1.5e-3f", Scalar(token="-1.5e-3f"), id="negative float with a space"),
        pytest.param("a: .5", Scalar(token=".5"), id="float without a leading digit"),
        pytest.param("a: 0x1F", Scalar(token="0x1F"), id="hexadecimal"),
        pytest.param("a: -inf", Scalar(token="-inf"), id="infinity"),
        pytest.param("a: LM_CB", Scalar(token="LM_CB"), id="enum"),
        pytest.param("a: true", Scalar(token="true"), id="boolean"),
        pytest.param('a: "x"', Text(text="x"), id="string"),
        pytest.param("a: 'x\"y'", Text(text='x"y'), id="single quotes with a double one inside"),
        pytest.param("a: 'x' \"y\" # c\n 'z'", Text(text="xyz"), id="adjacent strings are one"),
        pytest.param(r'a: "\n\t\\\"\'\x41\101\u00e9\U0001F600"', Text(text="\n\t\\\"'AAé😀"), id="escapes"),
        pytest.param(r'a: "\377"', Text(text="\udcff"), id="a byte that is not UTF-8"),
        pytest.param('a: "é"', Text(text="é"), id="a character that is not ASCII"),
        pytest.param(
            "a: [1, b, 'c']", Items(values=(Scalar(token="1"), Scalar(token="b"), Text(text="c"))), id="list"
        ),
        pytest.param("a: []", Items(values=()), id="empty list"),
        pytest.param(
            "a [{}, {}]", Items(values=(Message(), Message())), id="list of messages without a colon"
        ),
        pytest.param("a {}", Message(), id="empty message"),
        pytest.param(
            "a: <b: 1>",
            Message(fields=(Field(name="b", value=Scalar(token="1")),)),
            id="message in angle brackets",
        ),
    ],
)
def test_value(text: str, value: pbtxt.Value) -> None:
    field = one(text)
    assert (field.name, field.value) == ("a", value)
    assert parse_pbtxt(render_pbtxt(Message(fields=(field,)))) == Message(fields=(field,))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("[mediapipe.X.ext] {}", "[mediapipe.X.ext]", id="extension"),
        pytest.param(
            "[type.googleapis.com / mediapipe.X]: {}",
            "[type.googleapis.com/mediapipe.X]",
            id="type of an Any with spaces, as OVMS writes it",
        ),
        pytest.param("[ type.googleapis.com/a-b.X ] {}", "[type.googleapis.com/a-b.X]", id="hyphen"),
    ],
)
def test_bracketed_name(text: str, name: str) -> None:
    assert one(text).name == name


def test_comments_are_kept_before_what_they_precede() -> None:
    text = "# one\n# two\na: 1  # three\nb {\n  # four\n}\n# five\n"
    message = parse_pbtxt(text)
    assert [field.comments for field in message.fields] == [("# one", "# two"), ("# three",)]
    assert message.comments == ("# five",)
    assert render_pbtxt(message) == "# one\n# two\na: 1\n# three\nb {\n  # four\n}\n# five\n"


def test_a_comment_sign_in_a_string_is_no_comment() -> None:
    assert one('a: "# OVMS_GRAPH_QUEUE_MAX_SIZE: 1"').comments == ()


def test_rendering_is_canonical() -> None:
    assert render_pbtxt(parse_pbtxt("a:<b:'x',c{d:1;}>e:[{f:1}]")) == (
        'a {\n  b: "x"\n  c {\n    d: 1\n  }\n}\ne: [{ f: 1 }]\n'
    )


def test_rendered_string_takes_the_quotes_that_it_has_none_of() -> None:
    fields = (Field(name="a", value=Text(text='{"K": 1}')), Field(name="b", value=Text(text="'\"")))
    assert render_pbtxt(Message(fields=fields)) == 'a: \'{"K": 1}\'\nb: "\'\\""\n'


def test_replace_field_leaves_one_in_the_place_of_the_first() -> None:
    message = parse_pbtxt("# c\na: 1 b: 2 a: 3")
    assert render_pbtxt(pbtxt.replace_field(message, "a", Scalar(token="9"))) == "# c\na: 9\nb: 2\n"
    assert render_pbtxt(pbtxt.replace_field(message, "z", Scalar(token="9"))).endswith("a: 3\nz: 9\n")


def test_messages_are_found_in_lists_too() -> None:
    message = parse_pbtxt("node {a: 1} node [{a: 2}, {a: 3}] node: 4")
    assert [render_pbtxt(each) for each in message.messages("node")] == ["a: 1\n", "a: 2\n", "a: 3\n"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("a", "line 1, column 2: expected ':' or '{', not the end", id="name alone"),
        pytest.param("a 1", "line 1, column 3: expected ':' or '{', not '1'", id="no colon"),
        pytest.param("a:\n}", "line 2, column 1: expected a value, not '}'", id="no value"),
        pytest.param(
            "a {\n b: 1\n", "line 3, column 1: expected a field's name or '}', not the end", id="not closed"
        ),
        pytest.param(
            "a {>", "line 1, column 4: expected a field's name or '}', not '>'", id="closed wrongly"
        ),
        pytest.param("a: 1 }", "line 1, column 6: expected a field's name, not '}'", id="closed twice"),
        pytest.param(
            'a: "x',
            "line 1, column 4: expected a token of protobuf's text format, not '\"'",
            id="string without an end",
        ),
        pytest.param(
            'a: "x\ny"',
            "line 1, column 4: expected a token of protobuf's text format, not '\"'",
            id="string over two lines",
        ),
        pytest.param(
            r'a: "\q"',
            "line 1, column 4: expected a string with known escapes, not '\"\\\\q\"'",
            id="unknown escape",
        ),
        pytest.param(r'a: "\400"', "expected a string with known escapes", id="octal above a byte"),
        pytest.param(r'a: "\ud800"', "expected a string with known escapes", id="surrogate"),
        pytest.param(r'a: "\U00110000"', "expected a string with known escapes", id="above Unicode"),
        pytest.param("a: 1x", "expected a token of protobuf's text format, not '1'", id="number and letter"),
        pytest.param("a: 1.2.3", "expected a token of protobuf's text format, not '1'", id="two dots"),
        pytest.param("a: -b", "line 1, column 5: expected a value, not 'b'", id="negative enum"),
        pytest.param("a: [1 2]", "line 1, column 7: expected ',' or ']', not '2'", id="list without commas"),
        pytest.param(
            "a: [1,]", "line 1, column 7: expected a value, not ']'", id="list with a comma at its end"
        ),
        pytest.param(
            "a: [[1]]", "line 1, column 5: expected a value that is not a list", id="list in a list"
        ),
        pytest.param(
            "[]: 1", "line 1, column 2: expected a type's name and ']', not ']'", id="empty brackets"
        ),
        pytest.param("[a.b {}", "expected a type's name and ']'", id="brackets not closed"),
        pytest.param("a: 1,,", "line 1, column 6: expected a field's name, not ','", id="two separators"),
        pytest.param("a: 1 \x00", "line 1, column 6: expected a token", id="NUL"),
        pytest.param(
            "<html></html>", "line 1, column 1: expected a field's name, not '<'", id="another format"
        ),
        pytest.param("a {" * 66 + "}" * 66, "expected at most 64 messages in each other", id="too deep"),
        pytest.param(
            "#" * (pbtxt.MAX_CHARS + 1), "must have at most 1048576 characters, not 1048577", id="too long"
        ),
    ],
)
def test_broken_text_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_pbtxt(text)
    assert problem in caught.value.message


@given(st.text(alphabet=st.sampled_from("ab1.-\"'\\ \n#[]{}<>:,;/x0"), max_size=60) | st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        message = parse_pbtxt(text)
    except InputError:
        return
    assert parse_pbtxt(render_pbtxt(message)) == message


@given(st.text())
def test_any_string_survives_a_round_trip(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    message = Message(fields=(Field(name="a", value=Text(text=text)),))
    assert parse_pbtxt(render_pbtxt(message)) == message
