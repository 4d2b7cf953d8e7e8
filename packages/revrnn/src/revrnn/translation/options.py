"""The options of ``revrnn-nmt-train``, with the names and defaults of the paper's code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rnncore.errors import UserError
from rnncore.flags import flag
from rnncore.run_options import RunOptions

from revrnn.translation.foreign import SECTION as FOREIGN
from revrnn.translation.foreign import refuse_foreign
from revrnn.translation.vanilla import Kind

COMMAND = "revrnn-nmt-train"
_FAMILIES = ("CUDNN", "Vanilla", "Rev")
_CELLS = ("LSTM", "GRU", "lstm", "gru", "revgru", "revlstm")


@dataclass(frozen=True, kw_only=True)
class TranslationOptions(RunOptions):
    """What ``revrnn-nmt-train`` takes, beside the flags of every training command."""

    data: str = flag("", "-data", help="what revrnn-nmt-preprocess saved", section="Data", metavar="PREFIX")
    encoder_model: Literal["CUDNN", "Vanilla", "Rev"] = flag(
        "CUDNN", "-encoder_model", help="torch's layers, our plain ones, or reversible ones", section="Model"
    )
    decoder_model: Literal["CUDNN", "Vanilla", "Rev"] = flag(
        "CUDNN", "-decoder_model", help="reversible if and only if the encoder is", choices=_FAMILIES, section="Model"
    )
    encoder_rnn_type: str = flag(
        "lstm", "-encoder_rnn_type", help="cell; revgru or revlstm for Rev", choices=_CELLS, section="Model"
    )
    decoder_rnn_type: str = flag(
        "lstm", "-decoder_rnn_type", help="cell, of the encoder's kind", choices=_CELLS, section="Model"
    )
    source_embedding_size: int = flag(500, "-src_word_vec_size", help="of source words", minimum=1, section="Model")
    target_embedding_size: int = flag(500, "-tgt_word_vec_size", help="of target words", minimum=1, section="Model")
    embedding_size: int = flag(-1, "-word_vec_size", help="of both; -1: each its own", minimum=1, section="Model")
    rnn_size: int = flag(500, "-rnn_size", help="hidden units of every layer", minimum=1, section="Model")
    layers: int = flag(-1, "-layers", help="of encoder and decoder; -1: each its own", minimum=1, section="Model")
    encoder_layers: int = flag(1, "-enc_layers", help="layers of the encoder", minimum=1, section="Model")
    decoder_layers: int = flag(
        1, "-dec_layers", help="layers of the decoder: as many as the encoder's", minimum=1, section="Model"
    )
    share_embeddings: bool = flag(
        False, "-share_embeddings", help="one embedding for both languages; needs -share_vocab", section="Model"
    )
    share_decoder_embeddings: bool = flag(
        False, "-share_decoder_embeddings", help="decode with the target embedding", section="Model"
    )
    global_attention: Literal["none", "dot", "general", "mlp", "mlp-conc"] = flag(
        "general", "-global_attention", help="score of the attention", section="Model"
    )
    context_type: Literal["hidden", "emb", "slice", "slice_emb", "linear"] = flag(
        "hidden",
        "-context_type",
        help="what is attended to: hidden states, source embeddings, a slice of the hidden states, both of these, or a "
        "linear map of both",
        section="Model",
    )
    slice_dim: int = flag(0, "-slice_dim", help="hidden units that are attended to", minimum=0, section="Model")
    slice_location: Literal["start", "end", "both"] = flag(
        "start", "-slice_loc", help="whether of the first group of units, the second or both", section="Model"
    )
    encoder_max_forget: float = flag(
        0.875, "-enc_max_forget", help="limit of forgetting in a Rev encoder", above=0.0, maximum=1.0, section="Model"
    )
    decoder_max_forget: float = flag(
        0.875, "-dec_max_forget", help="limit of forgetting in a Rev decoder", above=0.0, maximum=1.0, section="Model"
    )
    use_reverse: bool = flag(
        False, "-use_reverse", help="train by reversal: states are rebuilt, not stored", section="Model"
    )
    use_buffers: bool = flag(
        False, "-use_buffers", help="store states, and see what information buffers would hold", section="Model"
    )
    separate_buffers: bool = flag(
        False, "-separate_buffers", help="the decoder's information buffers are its own", section="Model"
    )
    parameter_range: float = flag(
        0.1,
        "-param_init",
        help="parameters are uniform within it; 0: the layers' own way",
        minimum=0.0,
        section="Model",
    )
    source_vectors: str | None = flag(
        None, "-pre_word_vecs_enc", help="file of a tensor of source embeddings", section="Model"
    )
    target_vectors: str | None = flag(
        None, "-pre_word_vecs_dec", help="file of a tensor of target embeddings", section="Model"
    )
    fix_source_vectors: bool = flag(False, "-fix_word_vecs_enc", help="do not train source embeddings", section="Model")
    fix_target_vectors: bool = flag(False, "-fix_word_vecs_dec", help="do not train target embeddings", section="Model")
    dropout: float = flag(0.0, "-dropout", help="of what is decoded", minimum=0.0, below=1.0, section="Regularisation")
    dropout_hidden: float = flag(
        0.0, "-dropouth", help="between layers", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_input: float = flag(
        0.0, "-dropouti", help="of embeddings", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_words: float = flag(
        0.0, "-dropoute", help="of whole words", minimum=0.0, below=1.0, section="Regularisation"
    )
    dropout_output: float = flag(
        0.0,
        "-dropouto",
        help="of the decoder's hidden states, and of hidden contexts",
        minimum=0.0,
        below=1.0,
        section="Regularisation",
    )
    dropout_slice: float = flag(
        0.0, "-dropouts", help="of attended slices", minimum=0.0, below=1.0, section="Regularisation"
    )
    weight_drop: float = flag(
        0.0, "-wdrop", help="of hidden-to-hidden weights", minimum=0.0, below=1.0, section="Regularisation"
    )
    label_smoothing: float = flag(
        0.0, "-label_smoothing", help="of the targets", minimum=0.0, below=1.0, section="Regularisation"
    )
    batch_size: int = flag(64, "-batch_size", help="sentences of a step", minimum=1, section="Training")
    valid_batch_size: int = flag(32, "-valid_batch_size", help="sentences in validation", minimum=1, section="Training")
    epochs: int = flag(13, "-epochs", help="last epoch", minimum=1, section="Training")
    start_epoch: int = flag(1, "-start_epoch", help="number of the first epoch", minimum=1, section="Training")
    optim: Literal["sgd", "adagrad", "adadelta", "adam"] = flag("sgd", "-optim", help="optimizer", section="Training")
    learning_rate: float = flag(1.0, "-learning_rate", help="at the start", above=0.0, section="Training")
    learning_rate_decay: float = flag(
        0.5,
        "-learning_rate_decay",
        help="times the rate, when the validation loss does not fall and from -start_decay_at on",
        above=0.0,
        maximum=1.0,
        section="Training",
    )
    start_decay_at: int = flag(8, "-start_decay_at", help="epoch from which the rate always decays", minimum=1,
                               section="Training")  # fmt: skip
    decay_method: str = flag(
        "", "-decay_method", help="noam: the Transformer's schedule", choices=("noam",), section="Training"
    )
    warmup_steps: int = flag(4000, "-warmup_steps", help="of noam", minimum=1, section="Training")
    max_grad_norm: float = flag(5.0, "-max_grad_norm", help="0: not clipped", minimum=0.0, section="Training")
    adagrad_accumulator_init: float = flag(
        0.0, "-adagrad_accumulator_init", help="of adagrad's sums", minimum=0.0, section="Training"
    )
    adam_beta1: float = flag(0.9, "-adam_beta1", help="of adam", minimum=0.0, below=1.0, section="Training")
    adam_beta2: float = flag(0.999, "-adam_beta2", help="of adam", minimum=0.0, below=1.0, section="Training")
    train_from: str = flag("", "-train_from", help="checkpoint whose weights to begin with", section="Training")
    seed: int = flag(-1, "-seed", help="of all random numbers; -1: another each time", minimum=0, section="Run")
    gpuid: tuple[int, ...] = flag((), "-gpuid", nargs="+", help="number of the GPU, one", minimum=0, section="Run")
    save_model: str = flag("model", "-save_model", help="name of the run in -save_dir", section="Run")
    save_dir: str = flag("saves", "-save_dir", help="where -save_model puts the run", section="Run")
    start_checkpoint_at: int = flag(
        0, "-start_checkpoint_at", help="first epoch whose model may be kept as best", minimum=0, section="Run"
    )
    report_every: int = flag(50, "-report_every", help="steps between lines of the log", minimum=1, section="Run")
    no_log_during_epoch: int = flag(
        0, "-no_log_during_epoch", help="1: log epochs alone", minimum=0, maximum=1, section="Run"
    )
    log_mem: bool = flag(
        False,
        "-log_mem",
        help="memory of hidden states in each line of the log, with -use_reverse or -use_buffers",
        section="Run",
    )
    checkpoint_interval: int = flag(
        500, "--checkpoint_interval", help="steps between checkpoints", minimum=1, section="Run", yields=True
    )
    beam_size: int = flag(
        5, "--final_beam_size", help="beams of the BLEU at the end; 0: no BLEU", minimum=0, section="Run", yields=True
    )
    max_generator_batches: int = flag(
        32, "-max_generator_batches", help="logits are always computed in blocks; any number does", section="Run"
    )
    rnn_type: str = flag(
        "LSTM", "-rnn_type", help="see -encoder_rnn_type", choices=("LSTM", "GRU", "RevGRU"), section=FOREIGN
    )
    position_encoding: bool = flag(False, "-position_encoding", help="the Transformer's", section=FOREIGN)
    feat_merge: str = flag(
        "concat", "-feat_merge", help="word features'", choices=("concat", "sum", "mlp"), section=FOREIGN
    )
    feat_vec_size: int = flag(-1, "-feat_vec_size", help="word features'", section=FOREIGN)
    feat_vec_exponent: float = flag(0.7, "-feat_vec_exponent", help="word features'", section=FOREIGN)
    model_type: str = flag("text", "-model_type", help="text; images and speech", section=FOREIGN)
    encoder_type: str = flag(
        "rnn", "-encoder_type", help="rnn", choices=("rnn", "brnn", "mean", "transformer", "cnn"), section=FOREIGN
    )
    decoder_type: str = flag("rnn", "-decoder_type", help="rnn", choices=("rnn", "transformer", "cnn"), section=FOREIGN)
    cnn_kernel_width: int = flag(3, "-cnn_kernel_width", help="convolutions'", section=FOREIGN)
    input_feed: int = flag(0, "-input_feed", help="attention that feeds back into the decoder", section=FOREIGN)
    brnn_merge: str = flag(
        "concat", "-brnn_merge", help="bidirectional encoders'", choices=("concat", "sum"), section=FOREIGN
    )
    context_gate: str | None = flag(
        None, "-context_gate", help="a gate", choices=("source", "target", "both"), section=FOREIGN
    )
    copy_attn: bool = flag(False, "-copy_attn", help="copying", section=FOREIGN)
    copy_attn_force: bool = flag(False, "-copy_attn_force", help="copying", section=FOREIGN)
    coverage_attn: bool = flag(False, "-coverage_attn", help="coverage in training", section=FOREIGN)
    lambda_coverage: float = flag(1.0, "-lambda_coverage", help="coverage in training", section=FOREIGN)
    truncated_decoder: int = flag(0, "-truncated_decoder", help="truncated gradients", section=FOREIGN)
    exp_host: str = flag("", "-exp_host", help="Crayon's", section=FOREIGN)
    exp: str = flag("", "-exp", help="Crayon's", section=FOREIGN)
    sample_rate: int = flag(16000, "-sample_rate", help="speech", section=FOREIGN)
    window_size: float = flag(0.02, "-window_size", help="speech", section=FOREIGN)

    def check(self) -> None:
        """Raises UserError for what does not go together, and for what belongs to other systems."""
        refuse_foreign(self)
        if not self.data:
            raise UserError("-data is required: what revrnn-nmt-preprocess saved, or what revrnn-nmt-data printed")
        if len(self.gpuid) > 1:
            raise UserError(f"-gpuid takes one GPU here, not {len(self.gpuid)}")
        for name, first in (("-start_epoch", self.start_epoch), ("-start_checkpoint_at", self.start_checkpoint_at)):
            if first > self.epochs:
                raise UserError(f"{name} {first} is past the last epoch, -epochs {self.epochs}")
        self._check_model()

    def _check_model(self) -> None:
        for side in ("encoder", "decoder"):
            family, cell = getattr(self, f"{side}_model"), getattr(self, f"{side}_rnn_type").lower()
            if (family == "Rev") != cell.startswith("rev"):
                fit = "revgru or revlstm" if family == "Rev" else "gru or lstm"
                raise UserError(f"-{side}_model {family} goes with -{side}_rnn_type {fit}, not {cell}")
        if (self.encoder_model == "Rev") != (self.decoder_model == "Rev"):
            raise UserError("-encoder_model and -decoder_model must both be Rev, or neither: one starts the other")
        if self.encoder_rnn_type.lower() != self.decoder_rnn_type.lower():
            raise UserError("-encoder_rnn_type and -decoder_rnn_type must be the same: one's state starts the other")
        if self.layers == -1 and self.encoder_layers != self.decoder_layers:
            raise UserError("-enc_layers and -dec_layers must be the same: each encoder layer starts a decoder's")
        if self.reversible and self.rnn_size % 2:
            raise UserError(f"-rnn_size {self.rnn_size} must be even: the units are split in two groups")
        if not self.reversible and (self.use_reverse or self.use_buffers):
            name = "-use_reverse" if self.use_reverse else "-use_buffers"
            raise UserError(f"{name} needs -encoder_model Rev -decoder_model Rev; others cannot be reversed")
        if self.share_decoder_embeddings and self.sizes[1] != self.rnn_size:
            raise UserError("-share_decoder_embeddings needs target embeddings of -rnn_size")

    @property
    def reversible(self) -> bool:
        """Whether encoder and decoder are reversible, trained by reversal or not."""
        return self.encoder_model == "Rev"

    @property
    def kind(self) -> Kind:
        """The kind of cell."""
        return "gru" if self.encoder_rnn_type.lower().endswith("gru") else "lstm"

    @property
    def sizes(self) -> tuple[int, int]:
        """Of source and target embeddings."""
        both = self.embedding_size
        return (self.source_embedding_size, self.target_embedding_size) if both == -1 else (both, both)

    @property
    def depth(self) -> int:
        """The layers of encoder and decoder."""
        return self.encoder_layers if self.layers == -1 else self.layers

    @property
    def run_path(self) -> Path | None:
        """Where a new run goes, if that was said; a name in ``-save_dir`` stands for a new directory of that name."""
        if self.run_dir is not None or (self.save_model, self.save_dir) == ("model", "saves"):
            return self.run_dir
        return Path(self.save_dir) / self.save_model
