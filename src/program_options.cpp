#include "program_options.hpp"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "idistill/embedding/options.hpp"
#include "idistill/embedding/parts.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/influence/settings.hpp"
#include "idistill/options/run_options.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/propagation/members.hpp"
#include "idistill/propagation/options.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/similarity_options.hpp"

namespace idistill {
namespace {

using options::Values;

bool contains(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

template <class Member>
std::vector<std::string> own_options(const Member& member) {
    std::vector<std::string> names;
    if (member.options != nullptr)
        for (const auto& option : member.options()) names.push_back(option.name);
    return names;
}

bool computes_all(const Values& values) {
    return values.command != options::Command::select && !propagation::propagates(values);
}

/// Embeddings of gradients go by what `embed` takes of an influence function's options, whatever the influence.
bool embeds_by(const Values& values, const std::string& option) {
    return program_options().find(option, options::Command::embed) != nullptr && !computes_all(values) &&
           embedding::any_embedding(values.of<embedding::EmbeddingSettings>(), &embedding::Member::of_gradients);
}

/// What the other families leave without effect of an influence function's options.
std::string idle_of_influence(const Values& values, const std::string& option) {
    const bool of_tasks = values.of<options::InputSettings>().columns == options::ColumnKind::tasks;
    for (const auto& member : influence::members()) {
        if (contains(member.of_extras, option)) return selection::against_extras(values);
        if (computes_all(values) && of_tasks && contains(member.of_columns, option)) return "columns";
        if (values.command == options::Command::embed && contains(own_options(member), option) &&
            !embeds_by(values, option))
            return "embedding";
    }
    return {};
}

void add(options::Table& table, const std::vector<options::Option>& options) {
    table.options.insert(table.options.end(), options.begin(), options.end());
}

/// What the members of a family have of their own: without effect with another member. `against_choice` gives the
/// option that keeps a member from being chosen, empty where it is.
template <class Member, class AgainstChoice>
void add_members(options::Table& table, std::span<const Member> members, AgainstChoice against_choice) {
    const auto shared = [members, against_choice](const Values& values, const std::string& option) {
        if constexpr (requires { members.front().shares; })
            for (const auto& member : members)
                if (contains(member.shares, option) && against_choice(values, member).empty()) return true;
        return false;
    };
    for (const auto& member : members) {
        if (member.options != nullptr) add(table, member.options());
        table.idle.emplace_back([&member, against_choice, shared, own = own_options(member)](
                                    const Values& values, const std::string& option) {
            const auto by = against_choice(values, member);
            if (!by.empty())
                return contains(own, option) && !embeds_by(values, option) && !shared(values, option) ? by
                                                                                                      : std::string();
            return member.idle ? member.idle(values, option) : std::string();
        });
    }
}

/// What keeps a member from being chosen by the option that names its family's member: this option, outside of other
/// commands.
template <class Settings>
auto against_unnamed(const std::string& family) {
    return [family](const Values& values, const auto& member) {
        const bool other = values.of<Settings>().member != member.name;
        return values.command == options::Command::run && other ? family : std::string();
    };
}

options::Table assembled() {
    options::Table table;
    table.idle = {propagation::idle_refine, idle_of_influence, embedding::idle_embedding};
    add(table, options::input_options());
    add(table, influence::influence_options());
    add_members(table, influence::members(), against_unnamed<influence::InfluenceSettings>("influence"));
    const auto first = std::ssize(table.options);
    add(table, propagation::propagation_options());
    add(table, embedding::embedding_options());
    add_members(table, propagation::members(), against_unnamed<propagation::PropagationSettings>("propagation"));
    add(table, propagation::refine_options());
    std::vector<std::string> of_propagation;  // all but the option that names it
    for (auto option = table.options.begin() + first + 1; option != table.options.end(); ++option)
        of_propagation.push_back(option->name);
    table.idle.emplace(table.idle.begin(), [of_propagation](const Values& values, const std::string& option) {
        return std::string(computes_all(values) && contains(of_propagation, option) ? "propagation" : "");
    });
    add(table, selection::selection_options());
    add_members(table, selection::members(), selection::against_choice);
    add(table, selection::similarity_options());
    table.idle.emplace_back(selection::idle_of_similarity);
    add(table, options::run_options());
    table.checks = {influence::check_targets, selection::check};
    table.resolve = selection::resolved;
    table.complete = selection::complete_budget;
    table.shortlist_counts = propagation::refines;
    return table;
}

}  // namespace

const options::Table& program_options() {
    static const options::Table table = assembled();
    return table;
}

}  // namespace idistill
