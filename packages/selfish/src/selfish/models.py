"""The model that a command's options describe."""

from selfish.convert import Model
from selfish.mos_model import MoSModel
from selfish.onlstm_model import ONLSTMModel
from selfish.options import MOS, ONLSTM, TRAIN, LanguageOptions, MosOptions, OnlstmOptions, TrainOptions
from selfish.rhn_model import RHNModel
from selfish.stacked_lstm import StackedLSTM

#: The options of each training command.
COMMANDS: dict[str, type[LanguageOptions]] = {TRAIN: TrainOptions, ONLSTM: OnlstmOptions, MOS: MosOptions}

#: Fields that decide what the model is, and what it reads.
OF_THE_MODEL = {"level", "model", "embedding_size", "hidden_size", "num_layers", "depth", "tied", "couple"}
OF_THE_MODEL |= {"chunk_size", "last_hidden_size", "n_experts"}


def build_model(options: LanguageOptions, vocabulary_size: int) -> Model:
    """Draws the parameters of the model that the options describe.

    Raises:
        UserError: Its sizes do not go together.
    """
    if isinstance(options, OnlstmOptions):
        return ONLSTMModel(
            vocabulary_size,
            embedding_size=options.embedding_size,
            hidden_size=options.hidden_size,
            num_layers=options.num_layers,
            chunk_size=options.chunk_size,
            dropout=options.dropout,
            dropout_hidden=options.dropout_hidden,
            dropout_input=options.dropout_input,
            dropout_words=options.dropout_words,
            weight_drop=options.weight_drop,
        )
    if isinstance(options, MosOptions):
        return _mixture(options, vocabulary_size)
    assert isinstance(options, TrainOptions)
    return _highway(options, vocabulary_size) if options.model == "RHN" else _stacked(options, vocabulary_size)


def _mixture(options: MosOptions, vocabulary_size: int) -> MoSModel:
    return MoSModel(
        vocabulary_size,
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        last_hidden_size=options.last_hidden_size if options.last_hidden_size > 0 else None,
        num_layers=options.num_layers,
        n_experts=options.n_experts,
        dropout=options.dropout,
        dropout_hidden=options.dropout_hidden,
        dropout_input=options.dropout_input,
        dropout_words=options.dropout_words,
        dropout_latent=options.dropout_latent if options.dropout_latent >= 0 else None,
        weight_drop=options.weight_drop,
        tied=options.tied,
    )


def _highway(options: TrainOptions, vocabulary_size: int) -> RHNModel:
    return RHNModel(
        vocabulary_size,
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        depth=options.depth,
        couple=options.couple,
        dropout=options.dropout,
        dropout_hidden=options.dropout_hidden,
        dropout_input=options.dropout_input,
        dropout_words=options.dropout_words,
        tied=options.tied,
    )


def _stacked(options: TrainOptions, vocabulary_size: int) -> StackedLSTM:
    return StackedLSTM(
        vocabulary_size,
        embedding_size=options.embedding_size,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        dropout=options.dropout,
        tied=options.tied,
    )
