"""Options of OpenNMT-py that belong to systems which are not here: one clear line says so.

The original commands took them all; those that have their default value mean nothing and are let pass.
"""

from typing import Any

from rnncore.errors import UserError
from rnncore.flag_spec import flags_of

SECTION = "Of OpenNMT-py, for other systems: refused unless at the default"

_INSTEAD = {
    "encoder_type": "encoders are -encoder_model Vanilla, CUDNN or Rev with -encoder_type rnn",
    "decoder_type": "decoders are -decoder_model Vanilla, CUDNN or Rev with -decoder_type rnn",
    "input_feed": "the decoder is unrolled before it attends",
    "data_type": "only text is translated",
    "model_type": "only text is translated",
    "exp_host": "runs are logged to their directory and to TensorBoard",
    "exp": "runs are logged to their directory and to TensorBoard",
    "report_rouge": "summaries are not scored; -report_bleu scores translations",
}


def refuse_foreign(options: Any) -> None:
    """Raises UserError if an option of another system is not at its default."""
    for flag in flags_of(type(options)):
        if flag.rules.section == SECTION and getattr(options, flag.field) != flag.default:
            why = _INSTEAD.get(flag.field, "it has no effect on these models")
            value = getattr(options, flag.field)
            given = flag.name if flag.kind is bool else f"{flag.name} {value}"
            raise UserError(f"{given} belongs to another system of OpenNMT-py: {why}; leave it out")
