"""The command line of scripts/train-demo: which stages to run, for how long, where."""
import argparse
import pathlib

import torch

from . import distil, evaluate, export, mend, scene, tokenizer, train_dit, train_text, train_vae
from .bank import Bank, Starts, Stills
from .stage import COMPILE, Budget, Log, Rng

RECIPE = ["vae=3.4", "text=1", "stills=2", "bank", "base=11", "peek", "high=1.5", "low=2", "lora-high=1.5", "lora-low=2",
          "export", "eval"]
TOY = ["vae=3steps", "text=2steps", "stills=2steps", "bank", "base=3steps", "peek", "high=2steps", "low=2steps",
       "lora-high=4steps", "lora-low=4steps", "export", "eval"]
ABOUT = f"""Trains the small model that ships in models/demo, from nothing but this folder's own pictures.

Stages, in order, each with its budget in minutes of wall clock (or NNNsteps):
  {' '.join(RECIPE)}
Needs PyTorch, numpy and sentencepiece; meant for one large GPU (about 28 minutes in all).
Checkpoints go to --work, so stages can be run one at a time and by several processes ("bank" needs only
the autoencoder): --stage base=5@0:0.5 runs the first half of the base schedule in 5 minutes, --stage
base=5@0.5:1 the rest. "peek" judges the base network as it is, also while another process trains it.
The same seed and the same step counts draw the same scenes and captions and start from the same
weights; GPU arithmetic itself does not repeat to the last bit."""


def parse():
    parser = argparse.ArgumentParser(description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", metavar="NAME[=BUDGET]", help="one stage; may be repeated")
    parser.add_argument("--minutes", type=float, help="scale the whole recipe to so many minutes")
    parser.add_argument("--toy", action="store_true", help="a few steps of everything, on any machine: seconds")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/train-demo"), help="checkpoints")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("models/demo"), help="exported files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=81920, help="tokens per training step")
    parser.add_argument("--bank", type=int, default=6144, help="text-only clips to render and encode")
    parser.add_argument("--stills", type=int, default=32768, help="single pictures to render and encode")
    parser.add_argument("--starts", type=int, default=0, metavar="N",
                        help="distil from N start pictures and words alone instead of the bank of clips")
    parser.add_argument("--adamw", action="store_true", help="train the matrices with AdamW too, instead of Muon")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts for eval")
    parser.add_argument("--jitter", type=float, default=0.3, help="how freely places, sizes and shades vary, 0..1")
    parser.add_argument("--start-from", type=pathlib.Path, metavar="FOLDER",
                        help="take the autoencoder from an exported folder, e.g. models/demo")
    parser.add_argument("--no-compile", action="store_true", help="do not use torch.compile on the GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def stages(args):
    if args.stage:
        return args.stage
    if args.toy or not args.minutes:
        return TOY if args.toy else RECIPE
    whole = sum(float(s.partition("=")[2] or 0) for s in RECIPE)
    return [f"{s.partition('=')[0]}={float(s.partition('=')[2]) * args.minutes / whole}" if "=" in s else s
            for s in RECIPE]


def tokenizer_model(work, seed):
    """Trained once, then kept with the checkpoints."""
    path = work / "tokenizer.model"
    if not path.exists():
        path.write_bytes(tokenizer.train(seed))
    return path.read_bytes()


def clips_of(args, words, log):
    """Encoded clips with their captions read; kept in --work, because stages may run in separate calls."""
    path = args.work / "bank.pt"
    if path.exists():
        bank = torch.load(path, map_location=args.device, weights_only=False)
    else:
        coder = train_vae.load(args.work, args.device)
        scale, frames = (1, 5) if args.toy else (args.bank, 81)
        bank = Bank(coder, words, scale, Rng(args.seed, "bank", args.device), args.device, log, frames)
        torch.save(bank, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        log("bank saved")
    bank.read(train_dit.load_text(args.work, words, args.device), args.device)
    return bank


def part_of(kind, count, args, words, log):
    """A small bank, quick enough to make anew."""
    bank = kind(train_vae.load(args.work, args.device), words, count, Rng(args.seed, kind.__name__.lower(), args.device),
                args.device, log)
    bank.read(train_dit.load_text(args.work, words, args.device), args.device)
    return bank


def main():
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.work / "log.txt")
    scene.JITTER["share"] = args.jitter
    if args.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        COMPILE["on"] = not args.no_compile
        log(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
        train_vae.choose_convolution(args.device, log)
    if args.start_from:
        export.take_back(args.start_from, args.work)
    proto = tokenizer_model(args.work, args.seed)
    words, bank = tokenizer.Tokenizer(proto), None
    tokens = 192 if args.toy else args.tokens
    for wanted in stages(args):
        name, _, amount = wanted.partition("=")
        log(f"stage {wanted}")
        if name in ("bank", "base", "high", "low", "lora-high", "lora-low", "mend") and bank is None:
            bank = part_of(Starts, args.starts, args, words, log) if args.starts else clips_of(args, words, log)
        common, end = (Budget(amount or "0"), args.work, args.seed), (args.device, log)
        if name == "vae":
            train_vae.train(*common, *end, args.toy)
        elif name == "text":
            train_text.train(*common, words, *end)
        elif name == "stills":
            pictures = part_of(Stills, 4 if args.toy else args.stills, args, words, log)
            train_dit.train_base(name, *common, pictures, tokens, *end, not args.adamw)
        elif name == "base":
            train_dit.train_base(name, *common, bank, tokens, *end, not args.adamw)
        elif name in ("high", "low"):
            train_dit.train_expert(name, *common, bank, tokens, *end)
        elif name in ("lora-high", "lora-low"):
            distil.train_lora(name[5:], *common, bank, tokens, *end)
        elif name == "mend":
            mend.mend(args.work, args.seed, bank, tokens, *end)
        elif name == "peek":
            evaluate.peek(args.work, words, args.seed, *end, **({"count": 2, "frames": 5} if args.toy else {}))
        elif name == "export":
            export.export(args.work, args.out, proto, log)
        elif name == "eval":
            toy = {"count": 2, "frames": 5} if args.toy else {"count": args.prompts}
            evaluate.evaluate(args.out, args.work, seed=args.seed, device=args.device, log=log, **toy)
        elif name != "bank":
            raise SystemExit(f"unknown stage '{name}'; see --help")
