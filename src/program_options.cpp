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
#include "idistill/selection/members.hpp"
#include "idistill/selection/options.hpp"

namespace idistill {
namespace {

/// What settings of several modules leave without effect together.
std::string idle_across(const options::Values& values, const std::string& option) {
    const auto& inputs = values.of<options::InputSettings>();
    const bool contracts = values.command != options::Command::select && !propagation::propagates(values) &&
                           inputs.columns == options::ColumnKind::tasks;
    if (option == "curvature-rank") return selection::against_hessian(values);
    if (contracts && (option == "sketch" || option == "sketch-dim")) return "columns";  // whole directions
    const bool unused =
        values.command == options::Command::embed &&
        !embedding::any_embedding(values.of<embedding::EmbeddingSettings>(), &embedding::Member::of_gradients);
    return option == "parameters" && unused ? "embedding" : "";
}

void add(options::Table& table, const std::vector<options::Option>& options) {
    table.options.insert(table.options.end(), options.begin(), options.end());
}

/// What the members of a family have of their own.
template <class Member>
void add_members(options::Table& table, std::span<const Member> members) {
    for (const auto& member : members) {
        if (member.options != nullptr) add(table, member.options());
        if (member.idle) table.idle.push_back(member.idle);
    }
}

/// A member's options have no effect with another one. `family`: the option that names the member.
template <class Member, class Settings>
void idle_unless_chosen(options::Table& table, const std::string& family, std::span<const Member> members,
                        std::string Settings::*chosen) {
    for (const auto& member : members) {
        if (member.options == nullptr) continue;
        std::vector<std::string> own;
        for (const auto& option : member.options()) own.push_back(option.name);
        table.idle.emplace_back([=, name = member.name](const options::Values& values, const std::string& option) {
            const bool mine = std::find(own.begin(), own.end(), option) != own.end();
            return mine && values.command == options::Command::run && values.of<Settings>().*chosen != name
                       ? family
                       : std::string();
        });
    }
}

options::Table assembled() {
    options::Table table;
    table.idle = {propagation::idle_propagation, idle_across, embedding::idle_embedding};
    add(table, options::input_options());
    add(table, influence::influence_options());
    add_members(table, influence::members());
    idle_unless_chosen(table, "influence", influence::members(), &influence::InfluenceSettings::member);
    add(table, propagation::propagation_options());
    add(table, embedding::embedding_options());
    add_members(table, propagation::members());
    idle_unless_chosen(table, "propagation", propagation::members(), &propagation::PropagationSettings::member);
    add(table, propagation::refine_options());
    add(table, selection::selection_options());
    add_members(table, selection::members());
    add(table, options::run_options());
    for (const auto& member : selection::members())
        if (member.check != nullptr) table.checks.emplace_back(member.check);
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
