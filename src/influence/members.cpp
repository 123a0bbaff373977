// The list of influence functions: a line each, and one that declares it.

#include "idistill/influence/members.hpp"

#include "idistill/base/error.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/influence/settings.hpp"
#include "idistill/options/given.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"

namespace idistill::influence {

Member gradient_member();
Member delift_member();
Member delift_se_member();
Member less_member();
Member selectit_member();

std::span<const Member> members() {
    static const std::vector<Member> all{gradient_member(), delift_member(), delift_se_member(), less_member(),
                                         selectit_member()};
    return all;
}

std::vector<options::Option> influence_options() {
    std::vector<std::string> names;
    std::string help;
    for (const auto& member : members()) {
        names.push_back(member.name);
        help += (help.empty() ? "" : ";\n") + member.name + ": " + member.help;
    }
    return {options::name_option({.name = "influence", .group = option_group, .value_name = "NAME", .help = help},
                                 &InfluenceSettings::member, names)};
}

namespace {

const Member& named_by(const options::Values& values) {
    const auto& wanted = values.of<InfluenceSettings>().member;
    for (const auto& member : members())
        if (member.name == wanted) return member;
    throw Error(ExitCode::internal_error, {"--influence", "", "the name of a member", wanted, ""});
}

}  // namespace

TargetSamples target_samples(const options::Values& values) {
    const auto& inputs = values.of<options::InputSettings>();
    if (!inputs.targets.empty()) return TargetSamples::files;
    return inputs.landmark_targets ? TargetSamples::landmarks : named_by(values).without_target;
}

bool joins_samples(const options::Values& values) { return named_by(values).joins_samples; }

void check_targets(const options::Values& values) {
    if (values.command != options::Command::run) return;
    const auto& inputs = values.of<options::InputSettings>();
    const options::Given given{options::command_line, "--target", {}};
    const bool any = inputs.landmark_targets || !inputs.targets.empty();
    const auto& member = named_by(values);
    if (any && member.without_target == TargetSamples::none)
        options::refuse(given, "none: influence = " + member.name + " rates samples by themselves", "a target",
                        "Leave --target out.");
    if (!any && member.without_target == TargetSamples::files)
        options::refuse(given, "NAME=FILE", "nothing",
                        "Give --target, here or in the settings file: a task to select for, its name and the token "
                        "file of its examples; or --target pool for samples that represent the pool.");
}

std::vector<std::string> task_names(const options::Values& values) {
    const auto kind = target_samples(values);
    if (kind == TargetSamples::landmarks) return {"pool"};
    if (kind == TargetSamples::none) return {named_by(values).own_task};
    std::vector<std::string> names;
    for (const auto& target : values.of<options::InputSettings>().targets) names.push_back(target.name);
    return names;
}

std::unique_ptr<Influence> make_influence(const options::Values& values) { return named_by(values).make(values); }

void look_at_files(options::Values& values) {
    if (const auto look = named_by(values).look_at_files; look != nullptr) look(values);
}

std::vector<plan::Quarantined> look_at_pool(options::Values& values, comm::Communicator& comm,
                                            const data::Corpus& pool) {
    const auto look = named_by(values).look_at_pool;
    return look == nullptr ? std::vector<plan::Quarantined>() : look(values, comm, pool);
}

}  // namespace idistill::influence
