#include "idistill/config/settings.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "flat_toml.hpp"
#include "help.hpp"
#include "idistill/config/embedding_parts.hpp"
#include "idistill/report/error.hpp"
#include "options.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

const std::string command_line = "command line";

[[noreturn]] void refuse(const std::string& where, const std::string& field, const std::string& expected,
                         const std::string& found, const std::string& remedy) {
    throw Error(ExitCode::usage, {where, field, expected, found, remedy});
}

/// What was given in one place, by option name.
using GivenByName = std::map<std::string, Given>;

const Option* find_option(const std::string& name, Command command) {
    for (const auto& option : options()) {
        if (option.name == name && option.of(command)) return &option;
    }
    return nullptr;
}

/// What to do about an unknown name: the nearest one of this command, or the command that it belongs to.
std::string remedy_for_unknown(const std::string& name, Command command, const std::string& dashes) {
    if (command != Command::run && command != Command::plan && find_option(name, Command::run) != nullptr)
        return command == Command::select ? "It belongs to a run: the existing result keeps what it was made with."
                                          : "It belongs to a run.";
    if (find_option(name, Command::select) != nullptr) return "It belongs to the command 'select'.";
    std::vector<std::string> names;
    for (const auto& option : options()) {
        if (option.of(command)) names.push_back(option.name);
    }
    const std::string near = nearest(name, names);
    return near.empty() ? "See --help." : "Did you mean " + dashes + near + "?";
}

[[noreturn]] void refuse_extra(const std::vector<std::string>& extras, Command command) {
    for (const auto& extra : extras) {
        if (extra.size() < 2 || extra[0] != '-') continue;
        const std::string name = extra.substr(0, extra.find('='));
        const std::string bare =
            name.substr(name.find_first_not_of('-') == std::string::npos ? 1 : name.find_first_not_of('-'));
        refuse(command_line, name, "an option of this command", "an unknown option",
               remedy_for_unknown(bare, command, "--"));
    }
    const std::vector<std::string> commands{"plan", "select", "embed"};
    const std::string near = nearest(extras.front(), commands);
    refuse(command_line, extras.front(), "an option", "a value that belongs to none",
           near.empty() ? "Every value follows its option."
                        : "The command " + in_quotes(near) + " comes first: idistill_mpi " + near + " ...");
}

struct CommandLine {
    GivenByName given;
    std::string config;               ///< settings file, empty if none
    std::optional<std::string> text;  ///< of --help and --version
};

CommandLine read_command_line(Command command, std::vector<std::string> arguments, const std::string& version) {
    CLI::App app;
    app.allow_extras();
    app.set_help_flag("-h,--help");
    const auto* show_version = app.add_flag("--version");
    CommandLine line;
    const auto* config = app.add_option("--config", line.config);
    std::map<std::string, CLI::Option*> parsed;
    std::map<std::string, std::vector<std::string>> storage;
    for (const auto& option : options()) {
        if (!option.of(command)) continue;
        const std::string name = "--" + option.name;
        parsed[option.name] = option.flag() ? app.add_flag(name)
                              : option.list ? app.add_option(name, storage[option.name])->expected(1, -1)
                                            : app.add_option(name, storage[option.name])
                                                  ->expected(1)
                                                  ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    }
    std::reverse(arguments.begin(), arguments.end());
    try {
        app.parse(arguments);
    } catch (const CLI::CallForHelp&) {
        line.text = help(command);
        return line;
    } catch (const CLI::ArgumentMismatch& error) {
        const std::string what = error.what();
        const std::string option = what.substr(0, what.find(':'));
        refuse(command_line, option, "one value", "none or several", "Give " + option + " once, with its value.");
    } catch (const CLI::ParseError& error) {
        refuse(command_line, {}, {}, error.what(), "See --help.");
    }
    if (show_version->count() > 0) {
        line.text = "idistill_mpi " + version + "\n";
        return line;
    }
    if (config->count() > 0 && (line.config.empty() || line.config.starts_with("--"))) {
        refuse(command_line, "--config", "a settings file", in_quotes(line.config),
               "Give --config the path of a TOML file.");
    }
    if (const auto extras = app.remaining(); !extras.empty()) refuse_extra(extras, command);
    for (const auto& [name, option] : parsed) {
        if (option->count() == 0) continue;
        Given given{command_line, "--" + name, option->results()};
        for (const auto& value : given.values) {
            if (value.starts_with("--"))
                refuse(command_line, given.field, "a value", "the option " + value,
                       "Give " + given.field + " a value.");
        }
        line.given[name] = std::move(given);
    }
    return line;
}

GivenByName read_settings_file(const std::string& path, Command command) {
    std::error_code ignored;
    std::ifstream file;
    if (!std::filesystem::is_directory(path, ignored)) file.open(path, std::ios::binary);
    if (!file.is_open()) {
        refuse(command_line, "--config", "a settings file that can be read", in_quotes(path), "Check the path.");
    }
    const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    GivenByName given;
    for (const auto& item : parse_flat_toml(content, path)) {
        const std::string where = path + " line " + std::to_string(item.line);
        const Option* option = find_option(item.key, command);
        if (option == nullptr)
            refuse(where, item.key, "a known key", "an unknown key", remedy_for_unknown(item.key, command, ""));
        if (item.array && !option->list) refuse(where, item.key, "one value", "an array", "Remove the brackets.");
        if (!item.values.empty()) given[item.key] = {where, item.key, item.values};
    }
    return given;
}

void check_contradictions(const Settings& settings, const GivenByName& from_file, const GivenByName& from_line) {
    for (const auto* given : {&from_line, &from_file}) {
        const auto samples = given->find("select");
        const auto tokens = given->find("select-tokens");
        const bool overruled =
            given == &from_file && (from_line.contains("select") || from_line.contains("select-tokens"));
        if (samples != given->end() && tokens != given->end() && !overruled) {
            refuse(tokens->second.where, tokens->second.field, "one budget", samples->second.field + " as well",
                   "Keep one of the two.");
        }
        for (const auto& [name, one] : *given) {
            if (overruled && (name == "select" || name == "select-tokens")) continue;
            const Idle reason = idle(settings, name);
            // A value of the file that the command line makes idle is no contradiction: that is how variants are run.
            if (reason.cause.empty() || (given == &from_file && from_line.contains(reason.cause))) continue;
            refuse(one.where, one.field, "a setting that has an effect",
                   "no effect with " + reason.cause + " = " + reason.value,
                   "Leave out " + one.field + " or change " + reason.cause + ".");
        }
    }
}

/// "5x" is a multiple of N/k, and k follows from lambda where that is given.
void check_max_weight(const Settings& settings) {
    if (settings.max_weight_of_mean && leaves_number_open(settings))
        refuse(command_line, "--max-weight",
               "a weight without x with --lambda, which leaves the number of samples open",
               in_quotes(shortest(*settings.max_weight) + "x"),
               "Give the largest /weight itself: all weights add up to the number of samples in the pool.");
}

/// Second order needs a strength above 0, by the Hessian a learning rate, and by the Fisher a column for every target
/// sample.
void check_second_order(const Settings& settings) {
    if (settings.selection != "weighted" || settings.influence != "second-order") return;
    if (uses_hessian(settings) && !settings.learning_rate)
        refuse(command_line, "--learning-rate",
               "a number with --curvature hessian, whose few directions leave steps without end", "auto",
               "Give --learning-rate, or use --curvature fisher.");
    if (settings.lambda == 0.0)
        refuse(command_line, "--lambda", "a number above 0 with --influence second-order", "0",
               "Give a strength above 0, or leave --lambda out and give --select.");
    if (settings.command != Command::select && settings.columns != "samples" && !uses_hessian(settings))
        refuse(command_line, "--columns", "samples with --curvature fisher", settings.columns,
               "Leave out --columns, or use --curvature hessian, or --influence first-order without --learning-rate.");
}

void check_required(const Settings& settings, Command command) {
    for (const char* name : {"model", "pool", "target", "result", "out"}) {
        const Option* option = find_option(name, command);
        if (option == nullptr || !option->show(settings).is_null()) continue;
        refuse(command_line, std::string("--") + name, option->value_name, "nothing",
               std::string("Give --") + name + ", here or in the settings file: " + option->help + ".");
    }
}

bool same_file(const std::string& a, const std::string& b) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::equivalent(a, b, error) && !error) return true;
    return fs::absolute(a).lexically_normal() == fs::absolute(b).lexically_normal();
}

void check_out(const Settings& settings, const std::string& config) {
    const auto check = [&settings](const std::string& option, const std::string& path) {
        for (const char* suffix : {"", ".partial", ".state", ".state.new", ".lock"}) {
            const std::string own = settings.out + suffix;
            if (path.empty() || !same_file(own, path)) continue;
            refuse(command_line, "--out", "a file of its own", in_quotes(own) + ", which is also " + option,
                   "Choose another name for --out.");
        }
    };
    for (const auto& path : settings.pool) check("--pool", path);
    for (const auto& target : settings.targets) check("--target " + target.name, target.path);
    check("--result", settings.result);
    check("--model", settings.model);
    check("--optimizer", settings.optimizer);
    check("--config", config);
    for (const auto& part : embedding_parts(settings))
        if (part.kind == EmbeddingKind::file) check("--embedding", part.name);
}

}  // namespace

namespace {

/// What is given; of the file, what the command line does not overrule and `fits`.
template <class Fits>
Settings applied(Command command, const GivenByName& from_file, const GivenByName& from_line, Fits fits) {
    Settings settings;
    settings.command = command;
    const bool budget_on_line = from_line.contains("select") || from_line.contains("select-tokens");
    for (const auto& [name, given] : from_file) {
        const bool budget = name == "select" || name == "select-tokens";
        if (!from_line.contains(name) && !(budget && budget_on_line) && fits(name))
            find_option(name, command)->apply(settings, given);
    }
    for (const auto& [name, given] : from_line) find_option(name, command)->apply(settings, given);
    return settings;
}

}  // namespace

Settings resolved(Settings settings) {
    const bool turns = !against_weights(settings).empty(), first = !against_second_order(settings).empty();
    if (settings.selection == "auto") settings.selection = turns ? "round-robin" : "weighted";
    if (settings.influence == "auto") settings.influence = first ? "first-order" : "second-order";
    return settings;
}

bool contracts_with_tasks(const Settings& settings) {
    return settings.propagation == "none" && settings.columns == "tasks";
}

bool leaves_number_open(const Settings& settings) {
    return settings.selection == "weighted" && settings.lambda.value_or(0.0) > 0.0;
}

bool uses_hessian(const Settings& settings) {
    return settings.selection == "weighted" && settings.influence == "second-order" && settings.curvature == "hessian";
}

std::optional<Settings> parse(const std::vector<std::string>& arguments, std::string& text,
                              const std::string& version) {
    auto command = Command::run;
    auto rest = arguments.begin();
    static const std::map<std::string, Command> commands{
        {"plan", Command::plan}, {"select", Command::select}, {"embed", Command::embed}};
    if (rest != arguments.end() && commands.contains(*rest)) command = commands.at(*rest++);
    const auto line = read_command_line(command, {rest, arguments.end()}, version);
    if (line.text) {
        text = *line.text;
        return std::nullopt;
    }
    const auto from_file = line.config.empty() ? GivenByName{} : read_settings_file(line.config, command);
    const auto all = applied(command, from_file, line.given, [](const std::string&) { return true; });
    check_contradictions(all, from_file, line.given);
    // What the command line left without effect is as if it were not in the file.
    auto settings = applied(command, from_file, line.given,
                            [&all](const std::string& name) { return idle(all, name).cause.empty(); });
    check_required(settings, settings.command);
    const auto meant = resolved(settings);
    check_second_order(meant);
    check_max_weight(meant);
    check_out(settings, line.config);
    if (command != Command::select) settings = meant;
    if (!settings.select_samples && !settings.select_percent && !settings.select_tokens) settings.select_percent = 5.0;
    return settings;
}

}  // namespace idistill::config
