// The text of --help.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "idistill/options/table.hpp"

namespace idistill::options {
namespace {

constexpr std::size_t name_width = 28;
constexpr std::size_t line_width = 100;

std::string opening_of_plan(Command command) {
    const std::string name = command == Command::embed ? "plan embed" : "plan";
    const std::string what = command == Command::embed ? "`embed`" : "a run";
    return "idistill_mpi " + name + ": what " + what +
           " would do and need, without loading the model.\n\n"
           "Prints work units, FLOPs and bytes per rank, node and disk, and what to change if they do not fit.\n"
           "Usage: idistill_mpi " +
           name + " [the options of " + (command == Command::embed ? what : "the run") +
           "]\n"
           "Start it with as many ranks as the run will have: the figures are for this number of ranks.\n";
}

std::string opening(Command command) {
    switch (command) {
        case Command::select:
            return "idistill_mpi select: selects again from the influences of an existing result, in seconds.\n\n"
                   "Usage: idistill_mpi select --result FILE --out FILE [options]\n";
        case Command::embed:
            return "idistill_mpi embed: writes an embedding of every sample of a pool, by any model, for the "
                   "--embedding of a run.\n\n"
                   "Usage: idistill_mpi embed --model DIR --pool FILE ... --out FILE [options]\n"
                   "A small model's gradients can carry a large model's influence: samples are matched by id.\n"
                   "Stopped runs continue with the same command.\n";
        case Command::run:
            break;
    }
    return "idistill_mpi: selects the samples of a pool that help most on your target tasks.\n\n"
           "Usage: idistill_mpi [options]          run\n"
           "       idistill_mpi plan [options]     show what the run would do and need, then stop\n"
           "       idistill_mpi select [options]   select again from an existing result\n"
           "       idistill_mpi embed [options]    write an embedding of the pool for other runs\n"
           "       idistill_mpi plan embed ...     show what this would do and need, then stop\n"
           "Stopped runs continue with the same command.\n";
}

std::string example(Command command) {
    switch (command) {
        case Command::select:
            return "  idistill_mpi select --result weights.h5 --out top.h5 --selection top-k --select 2%\n";
        case Command::embed:
            return "  mpirun -n 64 idistill_mpi embed --model SmolLM2-135M --pool pool.h5 \\\n"
                   "      --embedding gradient --out proxy.h5\n";
        case Command::run:
            break;
    }
    return "  mpirun -n 64 idistill_mpi --model SmolLM2-135M --pool pool.h5 \\\n"
           "      --target gsm8k=gsm8k.h5 --target squad=squad.h5 --select 10000 --out weights.h5\n"
           "or with a settings file (keys are the option names, arrays for options that take several values):\n"
           "  # run.toml\n"
           "  model = \"SmolLM2-135M\"\n"
           "  pool = [\"pool.h5\"]\n"
           "  target = [\"gsm8k=gsm8k.h5\", \"squad=squad.h5\"]\n"
           "  select = 10000\n"
           "  out = \"weights.h5\"\n"
           "  $ mpirun -n 64 idistill_mpi --config run.toml\n"
           "Where both name an option, the command line counts. Paths are relative to the working directory.\n";
}

/// `text` broken between words to the width of the right column; a line end in it is kept.
std::string column(const std::string& text) {
    const std::string line_end = "\n" + std::string(name_width, ' ');
    std::string out;
    std::size_t used = 0;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find_first_of(" \n", begin), text.size());
        const bool kept_end = begin > 0 && text[begin - 1] == '\n';
        if (kept_end || (used > 0 && used + 1 + (end - begin) > line_width - name_width)) {
            out += line_end;
            used = 0;
        }
        if (used > 0) out += ' ';
        out.append(text, begin, end - begin);
        used += (used > 0 ? 1 : 0) + end - begin;
        begin = end + 1;
    }
    return out;
}

std::string entry(const std::string& name, const std::string& text) {
    auto line = fmt::format("{:<{}}", "  " + name, name_width);
    if (name.size() + 4 > name_width) line = "  " + name + "\n" + std::string(name_width, ' ');
    return line + column(text) + "\n";
}

std::string default_text(const Option& option, const Values& defaults) {
    const auto value = option.show(defaults);
    return option.flag() || value.is_null() ? std::string() : fmt::format(" [{}]", shown(value));
}

}  // namespace

std::string help(const Table& table, Command command, bool plan_only) {
    Values defaults;
    table.complete(defaults);
    std::string text = plan_only ? opening_of_plan(command) : opening(command), group;
    for (const auto& option : table.options) {
        if (!option.of(command)) continue;
        if (option.group != group) text += "\n" + option.group + ":\n";
        group = option.group;
        const std::string several = option.list ? " ..." : "";
        text += entry("--" + option.name + (option.flag() ? "" : " " + option.value_name + several),
                      option.help + default_text(option, defaults));
    }
    text += "\nOther:\n" + entry("--config FILE", "settings file (TOML)") +
            entry("-h, --help", "this text; --help=markdown: all options as tables") +
            entry("--version", "version of the program");
    text += "\nDefaults stand in brackets.\n\nExample:\n";
    if (!plan_only) return text + example(command);
    return text + "  mpirun -n 64 idistill_mpi plan " + (command == Command::embed ? "embed " : "") +
           "--config run.toml\n";
}

}  // namespace idistill::options
