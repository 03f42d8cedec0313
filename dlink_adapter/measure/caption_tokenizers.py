"""Tokenizers of caption metrics: `ptb`, which published figures use and which needs Java, and `plain`."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from dlink_adapter.extras import import_extra


def ptb(captions: list[str]) -> list[str]:
    """The Penn Treebank tokenizer of Stanford CoreNLP, lower case, without punctuation: words joined by a space."""
    module = import_extra("pycocoevalcap.tokenizer.ptbtokenizer", "metrics")
    jar = Path(module.__file__).with_name(module.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    # One line for each caption. Java also breaks lines at U+2028 and others, which would shift all later captions.
    lines = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    run = subprocess.run([*command, "-preserveLines", "-lowerCase"], input=lines.encode(), capture_output=True)
    found = run.stdout.decode().split("\n")[:-1]
    if run.returncode or len(found) != len(captions):
        raise RuntimeError(f"the PTB tokenizer failed, pass tokenizer='plain' to do without:\n{run.stderr.decode()}")
    return [" ".join(word for word in line.split() if word not in module.PUNCTUATIONS) for line in found]


def plain(captions: list[str]) -> list[str]:
    """Lower case, runs of letters, digits and inner apostrophes: words joined by a space."""
    return [" ".join(re.findall(r"\w+(?:'\w+)*", caption.lower())) for caption in captions]


TOKENIZERS: dict[str, Callable[[list[str]], list[str]]] = {"ptb": ptb, "plain": plain}
