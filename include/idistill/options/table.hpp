#pragma once
// The table of all options: the command line, the settings file, --help, the recorded JSON, the run's identity, the
// printed table and the documentation are made from it.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::options {

struct Table {
    std::vector<Option> options;  ///< in the order of --help, groups together
    std::vector<IdleRule> idle;   ///< the first that knows a cause counts
    /// Each throws Error(usage) for resolved settings that contradict each other.
    std::vector<std::function<void(const Values&)>> checks;
    /// The values with what `auto` means beside the others. `parse` does so but for `select`, which first learns the
    /// result's columns.
    std::function<Values(Values)> resolve;
    /// Sets what has a default only where nothing else was given.
    std::function<void(Values&)> complete;
    /// True when Decides::shortlist decides units.
    std::function<bool(const Values&)> shortlist_counts;

    /// Null for a name that the command does not take.
    [[nodiscard]] const Option* find(const std::string& name, Command command) const;
};

/// Why an option has no effect beside these values.
Idle idle(const Table& table, const Values& values, const std::string& option);

/// Parses arguments (without the program name). The first may be a command (select, embed), with `plan` before it or
/// `plan` alone, which is that of a run; `--config FILE` names a flat TOML file with the option names as keys; where
/// both name an option the command line counts. --help,
/// --help=markdown and --version are not errors: then nothing is returned and `text` holds what to print.
/// Throws Error(usage) with where (command line, or file and line), field (option or key), what is allowed, what was
/// found and a remedy.
std::optional<Values> parse(const Table& table, const std::vector<std::string>& arguments, std::string& text,
                            const std::string& version);

/// Every setting of the command as JSON, keys as on the command line; what the result file records.
std::string to_json(const Table& table, const Values& values);

/// The part of the settings that decides the numbers and so must agree for a restart: a flat JSON object. Without rank
/// count, paths (the caller adds fingerprints of model, pool and targets), selection, timeouts and settings that have
/// no effect.
std::string identity_json(const Table& table, const Values& values);

/// The effective settings as an aligned table for people; settings without effect are left out.
std::string to_table(const Table& table, const Values& values);

std::string help(const Table& table, Command command, bool plan_only = false);

/// The options as Markdown, one table a group.
std::string to_markdown(const Table& table);

}  // namespace idistill::options
