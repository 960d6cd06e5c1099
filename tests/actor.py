"""An actor: a process that executes the commands of a test. It reads one line of JSON
for each command and writes one for each answer. `support.Actor` starts it, most often
as a role of the zygote.
"""

import ast
import faulthandler
import json
import os
import signal
import sys

import lockorder

# A test that fails asks where the threads are.
faulthandler.register(signal.SIGRTMIN + 5)

if lockorder.VARIABLE in os.environ:
    lockorder.install(os.environ[lockorder.VARIABLE])  # before `muninn` is imported


def evaluate(code: str, names: dict[str, object]) -> object:
    """Run `code` and return the value of its last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<test>", "exec"), names)
    return (
        eval(compile(ast.Expression(last.value), "<test>", "eval"), names)
        if last is not None
        else None
    )


def main() -> None:
    # Answers go to the descriptor that the test reads. Output of the code goes to
    # stderr, so that the two can not mix.
    answers, sys.stdout = sys.stdout, sys.stderr
    names: dict[str, object] = {"__name__": "__main__"}
    for line in sys.stdin:
        try:
            answer = {"value": evaluate(json.loads(line), names)}
        except BaseException as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        try:
            text = json.dumps(answer)
        except TypeError:
            text = json.dumps({"value": repr(answer["value"])})
        answers.write(text + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
