"""Writes fixtures/templates/expected.json: every template of that folder over every context of inputs.json, as jinja2 gives
it when transformers sets it up. Nulls are templates that fail.

    pip install transformers jinja2 && python tools/templates.py
"""

import json
from pathlib import Path

from transformers.utils import chat_template_utils

FOLDER = Path(__file__).parent.parent / "fixtures/templates"


def text(source, context):
    try:
        return chat_template_utils._compile_jinja_template(source).render(**context)
    except Exception:  # whatever is wrong, the template gives no text
        return None


inputs = json.loads((FOLDER / "inputs.json").read_text())
expected = {
    path.stem: {name: text(path.read_bytes().decode(), context) for name, context in inputs.items()}
    for path in sorted(FOLDER.glob("*.jinja"))
}
(FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
print(len(expected), "templates,", sum(t is None for row in expected.values() for t in row.values()), "failures")
