"""The runner of pages finds what is wrong with a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stage.page_run import play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PAGE = """
```python title="shop.py"
from receiver import TaskRoute, task
```

```python title="shop.py"
@task
async def send(user: str) -> str:
    return user.upper()


tasks = [TaskRoute(send)]
```

```sh
export WHO=ada
cd ..
cd reader
```

```sh title="first terminal"
receiver dev --modules shop
```

```text
receiver      http://127.0.0.1:8080/tasks/pubsub/
```

```sh
receiver push send --args "[\\"$WHO\\"]"
curl --silent http://127.0.0.1:8080/health
```

```text
200 The task completed.
```

```text title="first terminal"
… 200 send: Succeeded
```

```sql
SELECT task_name, return_value, final FROM task_executions WHERE task_name = 'send'
```

```text
 task_name | return_value | final
 send      | ADA          | t
(1 row)
```

```python title="test_shop.py"
from shop import send


def test_it(task_queue):
    send.enqueue("ada")
    assert task_queue.deliver_all()[0].acked
```
"""


@pytest.fixture
def played(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, empty_database_url: str
) -> Callable[[str], str]:
    def followed(text: str) -> str:
        place = tmp_path_factory.mktemp("page")
        return play([text], place, record=database_url, empty=empty_database_url)

    return followed


def test_a_page_with_everything_is_followed(played: Callable[[str], str]) -> None:
    assert "1 passed" in played(PAGE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('```python title="test_it.py"\ndef test_it():\n    assert [] == [1]\n```\n', "1 failed"),
        ("```sh\necho one\necho two\n```\n\n```text\ntwo\none\n```\n", r"line 6: not shown: \['one'\]"),
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("```sh\ntrue\n```\n\n```sh\nno-such-program\n```\n", "exit code 127"),
        ("```sql\nSELECT nothing FROM task_executions\n```\n", 'column "nothing" does not exist'),
        ('```sh title="first terminal"\nreceiver dev --no-such-option\n```\n', "No such option"),
        ("```sh\nreceiver migrate\n```\n", "DATABASE_URL is not set"),
    ],
    ids=["test", "order", "exit", "second block", "query", "first terminal", "environment"],
)  # fmt: skip
def test_what_does_not_work_is_told(played: Callable[[str], str], text: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        played(text)


def test_a_page_grows_a_file_and_uses_a_database_on_localhost(
    played: Callable[[str], str], tmp_path: Path
) -> None:
    text = '```ini title="a/b.ini"\none = 1\n```\n\n```ini title="a/b.ini"\ntwo = 2\n```\n\n'
    text += "```sh\ncat a/b.ini\nDATABASE_URL=postgresql://localhost/shop receiver migrate\n```\n\n"
    text += "```text\none = 1\n\ntwo = 2\nmigrated: nothing → …\n```\n"
    played(text)
