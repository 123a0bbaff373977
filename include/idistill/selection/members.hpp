#pragma once
// The list of selections.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::selection {

class Selector;

/// The option that is against something; empty where none is.
using Against = std::string (*)(const options::Values& given);

struct Member {
    std::string name;
    std::string help;  ///< what stands behind its name in --help
    std::unique_ptr<Selector> (*make)(const options::Values& values);
    std::vector<options::Option> (*options)() = nullptr;  ///< without effect unless it is chosen
    options::IdleRule idle = {};                          ///< of any option, where it is chosen
    void (*resolve)(options::Values& values) = nullptr;   ///< sets what `auto` of its own options means
    /// Throws Error(usage) for resolved values that choose it and that it cannot meet.
    void (*check)(const options::Values& meant) = nullptr;
    bool by_similarity = false;                       ///< similarity_options() have an effect
    std::vector<std::string> (*figures)() = nullptr;  ///< names of what it writes: Selection::figures
    double percent = 5.0;                             ///< of --select, where no budget was given
    /// Opens its files and notes in the values what a plan needs of them. Throws Error(bad_input).
    void (*look_at_files)(options::Values& values) = nullptr;
    Against against_auto = nullptr;      ///< --selection auto is the first of the list that nothing is against
    std::string not_auto_with = {};      ///< the same for --help
    Against against_refining = nullptr;  ///< selecting again among better influence of what is predicted best
    Against against_extras = nullptr;    ///< its use of the extras of influence; null: it never uses them
};

std::span<const Member> members();

/// The member that resolved values name.
const Member& chosen_by(const options::Values& meant);

std::unique_ptr<Selector> make_selector(const options::Values& meant);

/// Member::look_at_files of the member that the values name.
void look_at_files(options::Values& meant);

}  // namespace idistill::selection
