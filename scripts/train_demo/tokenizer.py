"""The SentencePiece model: unigram, case folded, with byte fallback so that any text has pieces."""
import io
import random

import sentencepiece
import torch

from . import prompts

VOCABULARY = 640                     # 4 control pieces, 256 bytes, the rest words and word parts
ROWS = 47                            # training captions are cut to this many pieces, </s> included


def train(seed=0, captions=40000):
    """Serialised ModelProto, from captions of the training half only."""
    rng = random.Random(seed)
    lines = (prompts.caption(rng, prompts.draw_scene(rng)) for _ in range(captions))
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=out, model_type="unigram", vocab_size=VOCABULARY, byte_fallback=True,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, character_coverage=1.0, normalization_rule_name="nmt_nfkc_cf",
        hard_vocab_limit=False, num_threads=1, minloglevel=2)
    return out.getvalue()


class Tokenizer:
    def __init__(self, proto):
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.size = self.pieces.get_piece_size()

    def batch(self, texts, rows=ROWS):
        """(ids [n, rows], lengths [n]); every text ends with </s>, an empty one is </s> alone."""
        ids, lengths = torch.zeros(len(texts), rows, dtype=torch.long), torch.zeros(len(texts), dtype=torch.long)
        for i, pieces in enumerate(self.pieces.encode(list(texts))):
            pieces = pieces[:rows - 1] + [1]
            ids[i, :len(pieces)] = torch.tensor(pieces)
            lengths[i] = len(pieces)
        return ids, lengths
